"""A whole consortium on one machine: real nodes in real processes, for trying, testing, measuring.

Nothing here is privileged. The testnet writes each node's directory, starts `swarm node start` in
it, and asks the nodes through their own control sockets, as their owners would.
"""
