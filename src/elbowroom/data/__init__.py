"""Data sets: loading, support, splits, binarisation, batches."""
