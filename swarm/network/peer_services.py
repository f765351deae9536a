"""What any libp2p host asks of a peer that it is connected to: ping, and identify.

Nodes do not ask each other; a member that points another libp2p program at a node, with its own
node's key, gets the answers that such programs expect. Strangers have been turned away before
there is a stream, and standbys have no streams.

https://github.com/libp2p/specs/blob/master/ping/ping.md, …/identify/README.md
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.utils.varint import encode_uvarint
from multiaddr import Multiaddr

from swarm.network.identity import Identity
from swarm.network.muxer import Stream
from swarm.network.peer_standing import Standing
from swarm.network.wire import CONTROL

PING, IDENTIFY = "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0"
PEER_SERVICES = (PING, IDENTIFY)
PING_BYTES = 32
PING_IDLE_S = 10.0
"""A stream on which no ping comes for so long is dropped."""
PING_PAUSE_S = 0.01
"""After each answer: whoever pings without end gets a hundred a second on each stream."""
TAKE_S = 5.0
"""For the peer to read what this node says of itself."""
PROTOCOL_VERSION, AGENT = "ipfs/0.1.0", "swarm"


async def answer_pings(peer: Standing, stream: Stream) -> None:
    """Send back what the peer sends, 32 bytes at a time. Raises PeerUnreachable at the end."""
    while True:
        ping = await stream.read_in_time(PING_BYTES, PING_IDLE_S)
        await stream.write_in_time(ping, PING_IDLE_S)
        peer.count(sent=PING_BYTES, received=PING_BYTES)
        await trio.sleep(PING_PAUSE_S)


class Introduction:
    """What this node says of itself: its key, where it listens, which protocols it speaks."""

    def __init__(
        self, identity: Identity, listen: Sequence[Multiaddr], protocols: Collection[str]
    ) -> None:
        self._public_key = identity.key_pair.public_key.serialize()
        self._listen = [address.to_bytes() for address in listen]
        self._protocols = protocols

    async def tell(self, peer: Standing, stream: Stream) -> None:
        """Write it, behind its length, and end the stream. Raises PeerUnreachable."""
        said = Identify(
            protocol_version=PROTOCOL_VERSION,
            agent_version=AGENT,
            public_key=self._public_key,
            listen_addrs=self._listen,
            protocols=sorted([CONTROL, *self._protocols]),
        ).SerializeToString()
        message = encode_uvarint(len(said)) + said
        await stream.write_in_time(message, TAKE_S)
        peer.count(sent=len(message))
        await stream.finish(TAKE_S)
