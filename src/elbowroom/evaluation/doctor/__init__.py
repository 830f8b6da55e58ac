"""The doctor: checks of a trained model that look for faults and name their causes."""
