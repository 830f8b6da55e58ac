"""The doctor: checks that tell why a model is bad, and what they find."""
