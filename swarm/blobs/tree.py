"""Blob names: the root of a BLAKE3 Merkle tree over a blob's chunks, bound to its manifest.

A blob is named by its content, and the name must be checkable chunk by chunk: chunks come from
several peers at once, any of which may lie, and a merge begins before the last one is there. So:

    leaf   = H("… leaf",  bytes of one chunk)
    node   = H("… node",  left ‖ right)             pairwise, level by level; an odd one moves up
    name   = H("… root",  manifest header ‖ top of the tree)

H(domain, x) is BLAKE3 in its key-derivation mode, whose context string keeps leaves, nodes and
roots apart (BLAKE3 specification, section 2.3), so no chunk can be passed off as a node.
"""

from __future__ import annotations

from blake3 import blake3

HASH_BYTES = 32

_LEAF_DOMAIN = "swarm 2026 blob leaf v1"
_NODE_DOMAIN = "swarm 2026 blob node v1"
_ROOT_DOMAIN = "swarm 2026 blob root v1"


def leaf_hash(chunk: bytes | memoryview) -> bytes:
    return _hash(_LEAF_DOMAIN, chunk)


def tree_top(leaves: bytes) -> bytes:
    """The hash above all leaves (joined, at least one)."""
    level = [leaves[at : at + HASH_BYTES] for at in range(0, len(leaves), HASH_BYTES)]
    while len(level) > 1:
        paired = [
            _hash(_NODE_DOMAIN, level[at] + level[at + 1]) for at in range(0, len(level) - 1, 2)
        ]
        level = paired + level[2 * len(paired) :]
    return level[0]


def root_hash(header: bytes, leaves: bytes) -> bytes:
    """A blob's name, of its manifest's header and its leaves (joined, at least one)."""
    return _hash(_ROOT_DOMAIN, header + tree_top(leaves))


def _hash(domain: str, data: bytes | memoryview) -> bytes:
    return blake3(data, derive_key_context=domain).digest()
