"""Columns of a table: what kind of values each holds, and how a table of mixed kinds becomes numbers and back.

column       Column, ColumnKind: what is known about one column
"""
