"""A likelihood for tables whose columns are of different kinds, and what a guide reads of them.

family       Family: the columns that share a kind of distribution, and what each has to offer
continuous   normal and log-normal columns, with wide tails; proportions
cells        probabilities of the cells between heaped values, exact in both tails
counts       negative binomial columns
levels       binary, ordinal and category columns
atoms        a value that has a probability of its own
likelihood   Table, the product of all columns; densities and probabilities apart
transform    TableTransform: what a guide sees
"""
