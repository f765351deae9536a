"""What an author writes: the plan, its settings and stages, and what is wrong with one."""
