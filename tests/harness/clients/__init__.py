"""Ethereum's usual programs on a node's JSON-RPC, as docs/clients.md says."""
