"""A node's directory: key, password, settings, and how it is set up."""

from swarm import lean_imports  # noqa: F401 (before eth_keyfile)
