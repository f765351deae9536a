"""One key for everything: the node key names the peer on libp2p and on the chain.

A secp256k1 PeerID contains its public key (an identity multihash), so the node address, which is
what the contract lists, follows from the PeerID alone: no registry, no lookup. The converse does
not hold, and is not needed: a member is dialled by its multiaddr and recognised by its key.
"""

from __future__ import annotations

from eth_utils.crypto import keccak
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.secp256k1 import Secp256k1PublicKey, create_new_key_pair
from libp2p.peer.id import ID

from swarm.errors import ConfigurationError
from swarm.types import Address


class Identity:
    """The node key as libp2p and as the chain see it.

    Raises ConfigurationError if `key` is not a 32-byte secp256k1 secret.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ConfigurationError(
                f"a node key has 32 bytes, but this one has {len(key)}; make one with swarm init"
            )
        try:
            self.key_pair: KeyPair = create_new_key_pair(key)
        except ValueError as error:
            raise ConfigurationError(
                f"the node key is not a secp256k1 secret ({error}); make one with swarm init"
            ) from None
        self.peer_id: ID = ID.from_pubkey(self.key_pair.public_key)
        address = address_of(self.peer_id)
        assert address is not None
        self.address: Address = address


def address_of(peer_id: ID) -> Address | None:
    """The node address of a PeerID; None if it is not that of a secp256k1 key."""
    public_key = peer_id.extract_public_key()
    if not isinstance(public_key, Secp256k1PublicKey):
        return None
    return Address(keccak(public_key.impl.format(compressed=False)[1:])[-20:])
