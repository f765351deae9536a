"""The chain that members replicate: consensus, execution, storage, JSON-RPC and contract client."""
