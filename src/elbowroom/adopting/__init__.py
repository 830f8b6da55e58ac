"""Adopting a model that was trained elsewhere: inspect it, convert it, check the conversion, wrap it for evaluation."""
