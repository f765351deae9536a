"""Every bound and every patience of the network, in one place.

A peer is a member, and a member may still be broken or hostile: whatever a peer can make this node
store, wait for or compute has a number here. The defaults suit tens of members over the internet.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class NetworkLimits:
    """Bounds that hold for each peer, unless the name says otherwise."""

    # Sizes.
    max_payload_bytes: int = 2 * MIB
    """One message, one request, one answer."""
    max_frame_bytes: int = 2 * MIB + 64 * KIB
    """One frame on the wire; anything that announces more is refused unread."""
    max_chunk_bytes: int = 1 * MIB
    """One chunk of a blob."""
    max_chunks_per_fetch: int = 65_536
    """Chunks asked for in one exchange."""
    max_buffered_bytes: int = 24 * MIB
    """Received and not yet read, over all streams of a connection: the windows that are granted
    (4 MiB for each fetch, 256 KiB for each other stream), and a little."""

    # Counts.
    max_queued_messages: int = 1024
    """One-way messages waiting to be sent; beyond it the oldest is dropped and counted."""
    max_queued_message_bytes: int = 8 * MIB
    """The same in bytes."""
    max_inbound_requests: int = 16
    """Requests of a peer that are handled at once; the next one is refused."""
    max_queued_refusals: int = 16
    """Refusals of such requests that wait to be sent; until then nothing more is read."""
    max_outbound_requests: int = 256
    """Own requests to a peer that wait for an answer at once."""
    max_fetches: int = 4
    """Own fetches of chunks from a peer at once; the next one waits for its turn."""
    max_inbound_streams: int = 16
    """Streams that a peer may have open here at once; the next one is reset."""
    max_bulk_connections: int = 8
    """Connections of a member that carry blobs to it, at once."""
    max_connections: int = 4
    """Authenticated connections of a member at once, while it is settled which one is kept."""
    max_half_open: int = 128
    """Connections that have not proved to be a member's, over all peers; for a further one, one of
    them is closed (see `half_open`)."""
    max_half_open_per_subnet: int = 32
    """The same from one network, /24 or /64."""
    max_half_open_per_host: int = 16
    """The same from one IP address."""
    max_addresses: int = 8
    """Addresses of a member that are dialled."""

    # Pace.
    max_upload_bytes_per_s: float | None = None
    """Of blobs, to all peers together."""

    # Patience.
    handshake_s: float = 5.0
    """From TCP connection to authenticated, multiplexed connection; also to name a stream."""
    dial_s: float = 5.0
    """For one address to accept a TCP connection."""
    backoff_first_s: float = 0.1
    backoff_max_s: float = 5.0
    """Between dials of the same member: doubles from first to max, with a fifth of jitter."""
    second_dialler_s: float = 0.2
    """The member with the higher address leaves the lower one this much time to dial first."""
    stated_rest_s: float = 30.0
    """An address that a member states itself, and that led nowhere, is not tried again for this
    long."""
    settle_s: float = 5.0
    """Two connections younger than this are one simultaneous dial; see `Network`."""
    reconnect_grace_s: float = 1.0
    """A request to a member that has just lost its connection waits this long for the next one."""
    write_stall_s: float = 15.0
    """A connection that cannot take 64 KiB within this time is closed."""
    take_stall_s: float = 60.0
    """A peer that gives a stream no room for 64 KiB within this time loses it, and with the control
    stream the connection. All streams share the link: hence longer."""
    read_stall_s: float = 30.0
    """A frame that has begun must go on within this time."""
    max_penalty_s: float = 60.0
    """The longest time for which a peer that broke the protocol is not connected again."""
