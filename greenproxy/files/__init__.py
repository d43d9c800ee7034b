"""Static files from a folder."""
