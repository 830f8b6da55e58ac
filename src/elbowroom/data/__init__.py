"""Data: where they come from, which values they take, how they are split, binarised and cut into batches."""
