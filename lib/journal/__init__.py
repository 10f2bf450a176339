"""A run on disk: its folder, the lines that are appended to it, and what its console showed."""
