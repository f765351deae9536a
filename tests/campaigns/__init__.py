"""Long suites, each a command: `python -m tests.campaigns NAME …`, from the repository's root."""
