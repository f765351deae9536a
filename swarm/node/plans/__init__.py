"""Plans as they are kept here: their code, their programs, their trainers."""
