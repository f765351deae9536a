"""The chain that members replicate: consensus, execution, storage, JSON-RPC and contract client."""

import os

# eth-hash takes the slowest library that it finds, unless it is told. It looks when first used.
os.environ.setdefault("ETH_HASH_BACKEND", "pysha3")
