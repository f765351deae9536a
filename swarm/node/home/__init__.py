"""A node's directory: key, password, settings, and how it is set up."""
