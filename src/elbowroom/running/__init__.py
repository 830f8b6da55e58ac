"""Running: configuration, the objects it stands for, the run folder, and the loop."""
