"""Tables as text: the dialect of a file, its lines and its cells."""
