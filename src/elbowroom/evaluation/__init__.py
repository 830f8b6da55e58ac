"""Judging what was learned: results that carry their meaning."""
