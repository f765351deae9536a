"""Six institutions, each in a network namespace, that do what docs/operations.md says."""
