"""A plan's source: as bytes with one digest, what it imports, how it differs from another."""
