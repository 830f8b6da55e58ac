"""A run, or a comparison, as one HTML file that can be read anywhere: no network, no script, all pictures inside."""
