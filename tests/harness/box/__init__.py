"""Hostile plan code in a box: what it tries (`ways_out`), and from where (`places`)."""
