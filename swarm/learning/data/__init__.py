"""A site's rows: read, split, dealt in batches, and summed up as statistics."""
