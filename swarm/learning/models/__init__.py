"""A finished model as a folder: its card, its files, and predictions with it."""
