"""Evaluation: results that state what was measured, on which data, and with which error."""
