"""The substitute for fastecdsa: libp2p can do with it what it does with the original."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
SUBSTITUTE = ROOT / "substitutes" / "fastecdsa"


def run_with_substitute(code: str) -> str:
    """What `code` prints where the substitute is imported in fastecdsa's place."""
    prelude = (
        "import fastecdsa\n"
        f"assert fastecdsa.__file__.startswith({str(SUBSTITUTE)!r}), fastecdsa.__file__\n"
    )
    return subprocess.run(
        [sys.executable, "-c", prelude + code],
        env=os.environ | {"PYTHONPATH": str(SUBSTITUTE)},
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip


def test_its_version_is_one_that_libp2p_accepts_and_says_that_it_is_not_the_original() -> None:
    version = Version(
        tomllib.loads((SUBSTITUTE / "pyproject.toml").read_text())["project"]["version"]
    )
    wanted = next(r for r in map(Requirement, requires("libp2p") or ()) if r.name == "fastecdsa")
    assert version in wanted.specifier
    assert version.local == "swarm"


def test_libp2p_makes_p256_keys_with_it_and_two_sides_agree_on_a_secret() -> None:
    shown = run_with_substitute(
        "from libp2p.crypto.key_exchange import create_ephemeral_key_pair\n"
        "mine, agree_mine = create_ephemeral_key_pair('P-256')\n"
        "theirs, agree_theirs = create_ephemeral_key_pair('P-256')\n"
        "assert mine.to_bytes() != theirs.to_bytes()\n"
        "a, b = agree_mine(theirs.to_bytes()), agree_theirs(mine.to_bytes())\n"
        "print(a == b, len(a) in (31, 32))\n"
    )
    assert shown == "True True\n"


def test_its_keys_are_those_of_p256_and_are_written_as_fastecdsa_writes_them() -> None:
    # The key pair of RFC 6979, A.2.5, and the base point for the key 1.
    shown = run_with_substitute(
        "from fastecdsa import keys\n"
        "from fastecdsa.curve import P256\n"
        "from fastecdsa.encoding.sec1 import SEC1Encoder as encoder\n"
        "d = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721\n"
        "q = keys.get_public_key(d, P256)\n"
        "print(encoder.encode_public_key(q, compressed=False).hex())\n"
        "print(encoder.encode_public_key(q).hex())\n"
        "for c in (True, False):\n"
        "    assert encoder.decode_public_key(encoder.encode_public_key(q, c), P256) == q\n"
        "print(keys.export_key(1, P256), end='')\n"
    )
    x = "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
    y = "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
    assert shown == f"04{x}{y}\n03{x}\n" + KEY_ONE


KEY_ONE = """\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABoAoGCCqGSM49
AwEHoUQDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP40Li/hp/
m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==
-----END EC PRIVATE KEY-----
"""
"""What fastecdsa 2.3.2 writes for the private key 1."""


def test_bytes_that_are_no_point_of_the_curve_are_refused() -> None:
    shown = run_with_substitute(
        "from fastecdsa.curve import P256\n"
        "from fastecdsa.encoding.sec1 import InvalidSEC1PublicKey, SEC1Encoder\n"
        "for key in (b'', b'\\x04' + bytes(64), b'\\x02' + b'\\xff' * 32, b'\\x04\\x01'):\n"
        "    try:\n"
        "        print(SEC1Encoder.decode_public_key(key, P256))\n"
        "    except InvalidSEC1PublicKey:\n"
        "        print('refused')\n"
    )
    assert shown.split() == ["refused"] * 4
