"""What a node imports at its start, and that nothing of what is put off is lost."""

from __future__ import annotations

import subprocess
import sys

UNUSED = {
    "aiohttp",
    "eth.chains",
    "httpx",
    "libp2p.kad_dht",
    "matplotlib",
    "numba",
    "py_ecc.optimized_bls12_381",
    "requests",
    "torch",
    "web3",
    "zeroconf",
}


def run(script: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    ).stdout


def test_a_node_imports_nothing_that_it_does_not_use() -> None:
    modules = run("import sys, swarm.node.node_process; print(*sys.modules)").split()
    assert "swarm.network.muxer" in modules
    assert UNUSED & set(modules) == set()


def test_a_name_that_was_put_off_is_there_once_it_is_asked_for() -> None:
    script = (
        "import swarm.network, swarm.chain.evm, sys; import libp2p, eth\n"
        "from eth import constants\n"
        "assert 'eth.chains' not in sys.modules\n"
        "print(libp2p.new_host.__name__, eth.MainnetChain.__name__, constants.__name__)"
    )
    assert run(script).split() == ["new_host", "MainnetChain", "eth.constants"]


def test_a_package_that_was_put_off_names_what_it_lacks() -> None:
    script = (
        "import swarm.chain.evm, eth\n"
        "try:\n    eth.nothing\nexcept AttributeError as error:\n    print(error)"
    )
    assert "'eth' has no attribute 'nothing'" in run(script)


def test_a_stand_in_becomes_the_function_that_it_stands_for() -> None:
    script = (
        "import swarm.node.home.keys, sys\n"
        "from eth_keyfile import keyfile\n"
        "assert 'py_ecc.optimized_bls12_381' not in sys.modules\n"
        "print(keyfile.bls.SkToPk(1).hex())"
    )
    generator = "97f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac58"
    assert run(script).startswith(generator)


def test_the_chains_of_other_forks_have_the_precompiles_that_were_put_off() -> None:
    script = (
        "import swarm.chain.evm\n"
        "from eth.vm.forks.prague.computation import PRAGUE_PRECOMPILES as known\n"
        "from eth.exceptions import VMError\n"
        "place = bytes(19) + bytes([0x0b])\n"
        "class Nothing:\n"
        "    class msg:\n        data = b''\n"
        "    def consume_gas(self, amount, reason): pass\n"
        "try:\n    known[place](Nothing())\nexcept VMError as error:\n    print(error)"
    )
    assert "BLS12_G1ADD" in run(script)
