"""The cryptography of masked rounds, pure but for the vault's files: no clock, no
socket, no chain (docs/decisions/0019).

    fixed_point.py   numbers of an update as integers of a ring, and back
    canaries.py      zero words that show whether a sum was spoiled, and its norm
    derivation.py    keys of pairs, of self masks and of codes, bound to one occasion
    masks.py         adds keystreams to an update, piece by piece
    shares.py        verifiable shares of a secret (Feldman 1987)
    envelope.py      a dealer's shares, each sealed to its recipient
    vault.py         secrets on disk: durable, in order, and erased

Randomness is always handed in by the caller, who takes it from the system.
"""
