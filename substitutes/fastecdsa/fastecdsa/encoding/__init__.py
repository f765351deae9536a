"""How keys become bytes."""
