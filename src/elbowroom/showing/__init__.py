"""Floor 5, showing: figures and reports of what the floors below have learned and measured."""
