"""A model's tensors: where they live, which travel, and the next file made of updates."""
