"""Simulation and fakes: the real machines in virtual time, with seeded faults.

Nothing that is shipped to a hospital imports this package; the tests and the simulator do.
"""
