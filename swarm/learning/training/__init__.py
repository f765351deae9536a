"""What runs in the trainer process, inside the box: the plan's code, with torch."""
