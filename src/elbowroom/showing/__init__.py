"""Showing: figures, tables and the report of what was learned and measured."""
