"""TLS 1.3 for the bulk channel: certificates that name a node, and contexts that trust only those.

A certificate carries the node's public key and its signature over the certificate's own key, as in
the TLS handshake of libp2p (specification: https://github.com/libp2p/specs/blob/master/tls/tls.md),
so whoever holds it can tell the node address. It lives as long as the process.

Python's ssl cannot ask for a certificate without also judging it, and libp2p's way around that
writes into the interpreter's memory. No way around is needed here: both sides have sent each other
their certificates over the authenticated control stream before they connect, and each context
trusts exactly those. A stranger's handshake fails inside OpenSSL.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

import trio
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from libp2p.peer.id import ID
from libp2p.security.tls.certificate import (
    create_cert_template,
    generate_certificate,
    verify_certificate_chain,
)

from swarm.errors import ProtocolViolation
from swarm.network.identity import Identity, address_of
from swarm.network.secure import HANDSHAKE_ERRORS
from swarm.types import Address, to_hex

CERTIFICATE_ERRORS = (
    *HANDSHAKE_ERRORS,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
)
T = TypeVar("T")


class TlsIdentity:
    """This node's certificate and its key. `der` is what peers are told."""

    def __init__(self, identity: Identity) -> None:
        template = create_cert_template()
        certificate, key = generate_certificate(identity.key_pair.private_key, template)
        self._pem: str = certificate + key
        self.der = ssl.PEM_cert_to_DER_cert(certificate)

    def context(self, *, server_side: bool, trusted: Iterable[bytes]) -> ssl.SSLContext:
        """Shows our certificate; accepts peers that show one of `trusted` (DER)."""
        side = ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # peers are known by key, not by name
        context.verify_mode = ssl.CERT_REQUIRED
        # All these certificates have the same subject: look for the very one, not for its issuer.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if server_side:
            context.num_tickets = 0  # connections are kept, not resumed
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # ssl reads only files
            file.write(self._pem)
            file.flush()
            context.load_cert_chain(file.name)
        anchors = b"".join(trusted)
        if anchors:
            context.load_verify_locations(cadata=anchors)
        return context


def address_in(certificate: bytes) -> Address:
    """The node that a certificate (DER) names and was made by. Raises ProtocolViolation."""
    try:
        public_key = verify_certificate_chain([x509.load_der_x509_certificate(certificate)])
        address = address_of(ID.from_pubkey(public_key))
    except CERTIFICATE_ERRORS as error:
        raise ProtocolViolation(f"a certificate that proves no node key: {error}") from None
    if address is None:
        raise ProtocolViolation("a certificate whose key is no node key (secp256k1)")
    return address


def check_certificate(certificate: bytes, expected: Address) -> None:
    """Raises ProtocolViolation unless the certificate names `expected`."""
    found = address_in(certificate)
    if found != expected:
        raise ProtocolViolation(f"{to_hex(expected)} sent the certificate of {to_hex(found)}")


class Trust:
    """The certificates that members have announced to this node, and contexts that accept them."""

    def __init__(self, identity: TlsIdentity) -> None:
        self._identity = identity
        self._certificates: dict[Address, bytes] = {}
        self._clients: dict[Address, ssl.SSLContext] = {}
        self._server = identity.context(server_side=True, trusted=())

    @property
    def server_context(self) -> ssl.SSLContext:
        """Accepts whoever shows one of them."""
        return self._server

    def client_context(self, member: Address) -> ssl.SSLContext:
        """Accepts only this member's. Raises ConnectionRefusedError if it has announced none."""
        if member not in self._clients:
            if member not in self._certificates:
                raise ConnectionRefusedError("the member has announced no certificate")
            trusted = [self._certificates[member]]
            self._clients[member] = self._identity.context(server_side=False, trusted=trusted)
        return self._clients[member]

    def note(self, member: Address, certificate: bytes) -> None:
        """A member announces its certificate (DER). Raises ProtocolViolation if it is not its own.

        It lives as long as the member's process: the newest counts.
        """
        if self._certificates.get(member) != certificate:
            check_certificate(certificate, member)
            self._certificates[member] = certificate
            self._clients.pop(member, None)
            self._trust_all()

    def forget(self, member: Address) -> None:
        self._clients.pop(member, None)
        if self._certificates.pop(member, None) is not None:
            self._trust_all()

    def owner_of(self, certificate: bytes | None) -> Address | None:
        """Whose certificate this is."""
        owners = (m for m, known in self._certificates.items() if known == certificate)
        return next(owners, None)

    def _trust_all(self) -> None:
        trusted = self._certificates.values()
        self._server = self._identity.context(server_side=True, trusted=trusted)


async def handshake(
    raw: socket.socket, context: ssl.SSLContext, *, server_side: bool
) -> ssl.SSLSocket:
    """Begin TLS on a connected socket, which now belongs to the result. Raises OSError.

    No thread waits for a peer that has proved nothing. The caller sets the deadline.
    """
    raw.setblocking(False)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # Undo what suits small frames (`tcp`): here the kernel's queue should be long.
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 2**31 - 1)
    try:
        secured = context.wrap_socket(
            raw, server_side=server_side, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
    except (OSError, ValueError):
        raw.close()
        raise
    try:
        await when_ready(secured, secured.do_handshake)
    except BaseException:
        secured.close()
        raise
    return secured


async def when_ready(secured: ssl.SSLSocket, operation: Callable[[], T]) -> T:
    """Repeat a non-blocking operation until it neither wants to read nor to write."""
    while True:
        try:
            return operation()
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(secured.fileno())
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(secured.fileno())


async def read_exactly(secured: ssl.SSLSocket, size: int) -> bytes:
    """Raises OSError if the connection ends before."""
    received = bytearray(size)
    unfilled = memoryview(received)
    while unfilled:
        count = await when_ready(secured, partial(secured.recv_into, unfilled))
        if count == 0:
            raise ConnectionResetError("closed by the peer")
        unfilled = unfilled[count:]
    return bytes(received)


async def send_all(secured: ssl.SSLSocket, data: bytes) -> None:
    """Raises OSError."""
    unsent = memoryview(data)
    while unsent:
        unsent = unsent[await when_ready(secured, partial(secured.send, unsent)) :]
