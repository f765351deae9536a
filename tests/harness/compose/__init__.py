"""compose.yaml, really run: its image built, its five services started, its comments followed."""
