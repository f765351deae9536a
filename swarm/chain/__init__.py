"""The chain that members replicate: consensus, execution, storage, JSON-RPC and contract client."""

import os
from importlib.util import find_spec

from swarm import lean_imports  # noqa: F401 (before py-evm)

# eth-hash takes the slower library of two, unless it is told. It looks when first used.
if find_spec("sha3") is not None:
    os.environ.setdefault("ETH_HASH_BACKEND", "pysha3")
