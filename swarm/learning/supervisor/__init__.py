"""The node's side of the trainer process: starts, asks, watches and ends it. No torch."""
