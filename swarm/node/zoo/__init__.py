"""Models that members publish, and what is signed of them."""
