"""Somebody else's model: look at it, convert it, check the conversion, wrap it as a run."""
