"""Peers, found and kept: authenticated connections between members, and nobody else's.

`open_network` is the whole of it. See `network` for how connections are kept, `secure` for the
member gate, `wire` for what is said over them, `limits` for every bound.
"""

from swarm import lean_imports  # noqa: F401 (before libp2p)
from swarm.network.blob_exchange import BlobProvider
from swarm.network.limits import NetworkLimits
from swarm.network.network import Network, open_network
from swarm.network.peers import PeerTraffic, Traffic

__all__ = ["BlobProvider", "Network", "NetworkLimits", "PeerTraffic", "Traffic", "open_network"]
