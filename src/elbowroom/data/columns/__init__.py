"""Columns of a table: what kind of values each holds, and how a table of mixed kinds becomes numbers and back.

column       Column, ColumnKind: what is known about one column
asking       kinds that the user asks for
values       a column of any data frame as truths, numbers, instants or text
dates        formats of dates, days and back
isolated     numbers that stand for missing ones
names        levels, and whether text names, identifies or is free
quantities   whether numbers count, measure, name or identify
finding      the kind of every column
fitting      what a density has to know, from the training rows
describing   columns in words
coding       a table as numbers, and numbers as a table
"""
