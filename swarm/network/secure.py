"""The member gate: Noise that ends the handshake with anybody who is not a member.

The key of the peer is proved by the handshake itself, so this is the earliest moment at which a
stranger can be told from a member: before a multiplexer, a stream or a handler exists for it. What
a stranger learns is what the Noise XX pattern reveals to every caller, the node's public key, and
then a closed connection.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from google.protobuf.message import DecodeError
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from noise.exceptions import (  # type: ignore[import-untyped]
    NoiseHandshakeError,
    NoiseInvalidMessage,
    NoiseMaxNonceError,
    NoiseProtocolNameError,
    NoisePSKError,
    NoiseValueError,
)

from swarm.network.identity import Identity, address_of
from swarm.network.multistream import NegotiationError, answer, propose
from swarm.network.muxer import YAMUX, Muxer
from swarm.network.tcp import TcpStream
from swarm.types import Address, to_hex

HANDSHAKE_ERRORS = (
    # What hostile bytes raise, by layer. The libraries below libp2p do not wrap their errors.
    BaseLibp2pError,
    NegotiationError,
    NoiseHandshakeError,
    NoiseInvalidMessage,
    NoiseMaxNonceError,
    NoiseProtocolNameError,
    NoisePSKError,
    NoiseValueError,
    InvalidTag,
    DecodeError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
)
"""A peer that makes the handshake raise one of these is refused. Cancellation is none of them."""


class NotAMember(HandshakeFailure):  # type: ignore[misc]  # libp2p is untyped for mypy
    """The peer proved its key, and the key is not one that may connect."""


class MemberNoise(NoiseTransport):  # type: ignore[misc]  # libp2p is untyped for mypy
    """libp2p's Noise transport that admits only peers for which `is_admitted(address)` holds."""

    def __init__(self, identity: Identity, is_admitted: Callable[[Address], bool]) -> None:
        super().__init__(identity.key_pair, create_noise_key_pair().private_key)
        self._is_admitted = is_admitted

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return self._admit(await super().secure_inbound(conn))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID | None) -> ISecureConn:
        # Members are known by address, from which no PeerID follows: `None` skips the comparison
        # of PeerIDs, not the proof of the key, and `connect` compares the address.
        return self._admit(await super().secure_outbound(conn, peer_id))

    def _admit(self, session: ISecureConn) -> ISecureConn:
        address = address_of(session.get_remote_peer())
        if address is None or not self._is_admitted(address):
            raise NotAMember(to_hex(address) if address else str(session.get_remote_peer()))
        return session


async def welcome(tcp: TcpStream, noise: MemberNoise, max_buffered_bytes: int) -> Muxer:
    """Upgrade an inbound connection. Raises one of HANDSHAKE_ERRORS; the caller sets a deadline."""
    await answer(tcp, (NOISE,))
    session = await noise.secure_inbound(tcp)
    await answer(session, (YAMUX,))
    return Muxer(session, session.get_remote_peer(), False, max_buffered_bytes)


async def connect(
    tcp: TcpStream, noise: MemberNoise, expected: Address, max_buffered_bytes: int
) -> Muxer:
    """Upgrade an outbound connection to the member `expected`; otherwise as `welcome`."""
    await propose(tcp, NOISE)
    session = await noise.secure_outbound(tcp, None)
    found = address_of(session.get_remote_peer())
    if found != expected:
        raise NotAMember(f"{to_hex(found or b'')} answers there, not {to_hex(expected)}")
    await propose(session, YAMUX)
    return Muxer(session, session.get_remote_peer(), True, max_buffered_bytes)
