"""docs/clients.md with cast, ethers, web3.js and Hardhat, against a node of a running testnet.

    python -m tests.campaigns clients

A minute, with Node.js and npm, which gets the programs from its registry. Each reads the members,
sends a proposal with its own default price, finds the proposal's event, is refused a vote by an
error of the contract's, by name, and is given a proof of the contract's account against a block's
state root. The receipt is then asked of another node. The interface comes from files that `swarm
contract artifact` writes: Hardhat finds the contract by its name, and cast prints it as Solidity.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from web3 import HTTPProvider, Web3

from harness.compose.shell import Failed, run
from harness.plans import write_tiny_plan
from swarm.chain.genesis import CONTRACT_ADDRESS
from swarm.errors import SwarmError
from swarm.node.commands.control import read_running
from swarm.node.home.keys import load_key, read_password
from swarm.testnet.processes import stop_nodes
from swarm.testnet.run import bring_up
from swarm.types import to_hex

HERE = Path(__file__).parent
ARTIFACT = Path("artifacts", "Consortium.sol", "Consortium.json")
FOUNDRY = Path("out", "Consortium.sol", "Consortium.json")
PACKAGES = (
    "@foundry-rs/cast@1.7.1", "ethers@6", "web3@4", "hardhat@2", "@nomicfoundation/hardhat-ethers@3"
)  # fmt: skip
INSTALL_S, COMMAND_S = 600, 120
SITES = 3
AT, NOBODY = to_hex(CONTRACT_ADDRESS), "0x" + "0" * 40
PROPOSE = "propose(uint8,address,address,string,uint64,uint64)"
PROPOSED = "Proposed(uint256,uint8,uint8,address,address,string,uint64,uint64)"
REMOVE = "2"


@dataclass
class Desk:
    """What a person with a foreign program has: a node's RPC, a key, the contract's artifact."""

    folder: Path
    rpc_url: str
    key: str

    def cast(self) -> dict[str, Any]:
        """Single commands; what they tell, as the scripts do."""
        rpc = ("--rpc-url", self.rpc_url)
        words = (REMOVE, NOBODY, NOBODY, "", "1", "0")
        members = self._cast("call", *rpc, AT, "memberCount()(uint256)")
        sent = self._cast("send", *rpc, "--private-key", self.key, "--json", AT, PROPOSE, *words)
        receipt = json.loads(sent)
        block = str(int(receipt["blockNumber"], 16))
        between = ("--from-block", block, "--to-block", block)
        found = self._cast("logs", *rpc, *between, "--address", AT, "--json", PROPOSED)
        proof = json.loads(self._cast("proof", *rpc, AT, "--block", block))["accountProof"]
        root = self._cast("block", *rpc, block, "--field", "stateRoot").strip()
        solidity = self._cast("interface", self._interface())
        return {
            "proof": self._cast("keccak", proof[0]).strip() == root,
            "interface": "function getMembers(uint256" in solidity,
            "members": int(members.split()[0]),
            "status": int(receipt["status"], 16),
            "events": len(json.loads(found)),
            "price": str(int(receipt["effectiveGasPrice"], 16)),
            "transaction": receipt["transactionHash"],
        }

    def ethers(self) -> dict[str, Any]:
        return self._node("ethers.js", self.rpc_url, self.key, str(ARTIFACT))

    def web3(self) -> dict[str, Any]:
        return self._node("web3.js", self.rpc_url, self.key, str(ARTIFACT))

    def hardhat(self) -> dict[str, Any]:
        program = "node_modules/hardhat/internal/cli/bootstrap.js"
        words = ("run", "--no-compile", "hardhat.js", "--network", "swarm")
        return self._node(program, *words, SWARM_RPC=self.rpc_url, SWARM_KEY=self.key)

    def _interface(self) -> str:
        """A file with the ABI alone: cast reads no artifact whose libraries are still to link."""
        abi = json.loads((self.folder / FOUNDRY).read_text())["abi"]
        (self.folder / "abi.json").write_text(json.dumps(abi))
        return "abi.json"

    def _cast(self, *words: str) -> str:
        program = str(self.folder / "node_modules" / ".bin" / "cast")
        return run([program, *words], COMMAND_S, cwd=self.folder)

    def _node(self, *words: str, **settings: str) -> dict[str, Any]:
        told = run(["node", *words], COMMAND_S, environment=settings, cwd=self.folder)
        return dict(json.loads(told.splitlines()[-1]))


def check(name: str, told: dict[str, Any], other: str) -> None:
    """Raise Failed unless a program did all that docs/clients.md promises, as another node of the
    consortium has it, too."""
    wanted = {"members": SITES, "status": 1, "events": 1, "price": "0", "proof": True}
    if name == "cast":  # it knows no ABI, and tells an error by its number
        wanted["interface"] = True
    else:
        wanted["refusal"] = "ConsortiumNoSuchProposal"
    wrong = {key: told.get(key) for key, value in wanted.items() if told.get(key) != value}
    if wrong:
        raise Failed(f"{name}: {wrong}, where {wanted} is wanted")
    receipt = Web3(HTTPProvider(other)).eth.wait_for_transaction_receipt(told["transaction"], 20)
    if receipt["status"] != 1:
        raise Failed(f"{name}: another node says that {told['transaction']} failed")


def try_all(folder: Path) -> None:
    """Each program in turn. Raises Failed, SwarmError."""
    npm = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
    (folder / "package.json").write_text("{}")
    run(npm, INSTALL_S, cwd=folder)
    for script in HERE.glob("*.js"):
        shutil.copy(script, folder)
    for form, place in (("hardhat", "artifacts"), ("foundry", "out")):
        written = [sys.executable, "-m", "swarm", "contract", "artifact", "--for", form, place]
        run(written, COMMAND_S, cwd=folder)
    testnet = bring_up(folder / "nodes", write_tiny_plan(folder / "tiny", sites=SITES), None, 0)
    try:
        home, other = (Path(node.directory) for node in testnet.file.nodes[:2])
        key = load_key(home / "key.json", read_password(home / "password"))
        desk = Desk(folder, read_running(home).rpc_url, "0x" + key.hex())
        for ask in (desk.cast, desk.ethers, desk.web3, desk.hardhat):
            name, told = ask.__name__, ask()
            check(name, told, read_running(other).rpc_url)
            print(f"{_version(folder, name)}: {json.dumps(told)}", flush=True)
    finally:
        stop_nodes(testnet.file, testnet.processes)


def _version(folder: Path, name: str) -> str:
    package = "@foundry-rs/cast" if name == "cast" else name
    told = json.loads((folder / "node_modules" / package / "package.json").read_text())
    return f"{name} {told['version']}"


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 if every program works as docs/clients.md says."""
    argparse.ArgumentParser(prog="clients", description=(__doc__ or "").split("\n")[0]).parse_args(
        arguments
    )
    folder = Path(tempfile.mkdtemp(prefix="swarm-clients-"))
    try:
        try_all(folder)
    except (Failed, SwarmError) as failure:
        print(f"clients: {failure}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
