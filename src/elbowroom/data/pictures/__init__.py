"""Image files: finding them below a folder, and decoding them."""
