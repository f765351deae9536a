"""A user's own training script as a plan's code, which joins the swarm in three lines."""
