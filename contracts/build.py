"""Compile the contracts with the pinned compiler and write the artifact that the package ships.

    npm ci --prefix contracts         once: the compiler, and the chain that tests run against
    python contracts/build.py         rebuild swarm/chain/artifacts/Consortium.json
    python contracts/build.py --check fail unless the committed artifact is what the sources give

The artifact is committed, so installing swarm needs no compiler; the check keeps it honest.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ARTIFACT = HERE.parent / "swarm" / "chain" / "artifacts" / "Consortium.json"
CONTRACT = "Consortium"
LIBRARIES = ("MaskedRounds", "Membership", "Views")
INTERFACE = "Transactions"
RUNTIME_LIMIT_BYTES = 24_576  # EIP-170
ADDRESS_BYTES = 20
SETTINGS = {
    "evmVersion": "london",  # what the embedded chain executes
    "viaIR": True,
    "optimizer": {"enabled": True, "runs": 200},
    "metadata": {"bytecodeHash": "none", "appendCBOR": False},
    "outputSelection": {
        "*": {
            "*": [
                *("abi", "evm.bytecode.object", "evm.bytecode.linkReferences"),
                *("evm.deployedBytecode.object", "evm.methodIdentifiers"),
            ]
        }
    },
}


def sources() -> dict[str, str]:
    """File name → text of every contract, in name order."""
    return {path.name: path.read_text() for path in sorted(HERE.glob("*.sol"))}


def source_digest(texts: dict[str, str]) -> str:
    """SHA-256 over all names and texts: what the artifact claims to be built from."""
    whole = "".join(f"{name}\n{len(text)}\n{text}" for name, text in texts.items())
    return "0x" + hashlib.sha256(whole.encode()).hexdigest()


def compile_contracts(texts: dict[str, str]) -> dict[str, object]:
    """Run npm's solc over standard JSON. Exits with the compiler's own words if it refuses."""
    compiler = HERE / "node_modules" / "solc" / "solc.js"
    if not compiler.exists():
        sys.exit(f"{compiler} is missing: run `npm ci --prefix contracts` first")
    request = {
        "language": "Solidity",
        "sources": {name: {"content": text} for name, text in texts.items()},
        "settings": SETTINGS,
    }
    # Files, not pipes: the compiler gives up on an input that is not there yet (EAGAIN), and exits
    # without draining a full output, which cuts its answer off.
    with tempfile.TemporaryFile("w+") as question, tempfile.TemporaryFile("w+") as output:
        json.dump(request, question)
        question.seek(0)
        subprocess.run(
            ["node", str(compiler), "--standard-json"],
            stdin=question,
            stdout=output,
            check=True,
            timeout=900,
        )
        output.seek(0)
        text = output.read()
    answer = json.loads(text[text.index("{") :])
    for error in answer.get("errors", ()):
        print(error["formattedMessage"], file=sys.stderr)
    if any(error["severity"] == "error" for error in answer.get("errors", ())):
        sys.exit("the contracts do not compile")
    built = {name: answer["contracts"][f"{name}.sol"][name] for name in (CONTRACT, *LIBRARIES)}
    sizes = {n: len(each["evm"]["deployedBytecode"]["object"]) // 2 for n, each in built.items()}
    for name, size in sizes.items():
        if size > RUNTIME_LIMIT_BYTES:
            sys.exit(f"{name} has {size} bytes at run time; chains accept {RUNTIME_LIMIT_BYTES}")
        if name != CONTRACT and built[name]["evm"]["bytecode"]["linkReferences"]:
            sys.exit(f"{name} calls another library, which nothing links")
    interface = answer["contracts"][f"{INTERFACE}.sol"][INTERFACE]
    check_interface(interface, built)
    version = json.loads((compiler.parent / "package.json").read_text())["version"]
    return {
        "abi": whole_abi([*built.values(), interface]),
        "bytecode": {n: unlinked(each["evm"]["bytecode"]) for n, each in built.items()},
        "links": links_of(built[CONTRACT]["evm"]["bytecode"]),
        "runtime_sizes": sizes,
        "source_digest": source_digest(texts),
        "compiler": f"solc {version} (npm)",
        "settings": {key: value for key, value in SETTINGS.items() if key != "outputSelection"},
    }


def artifact_text(texts: dict[str, str]) -> str:
    """The artifact of these sources, as the file has it."""
    return json.dumps(compile_contracts(texts), indent=1, sort_keys=True) + "\n"


def check_interface(interface: dict[str, Any], built: dict[str, Any]) -> None:
    """The contract passes calls of the interface on to a library that has such a function."""
    theirs = [built[name]["evm"]["methodIdentifiers"].items() for name in LIBRARIES]
    known = {selector for methods in theirs for _, selector in methods}
    for signature, selector in interface["evm"]["methodIdentifiers"].items():
        if selector not in known:
            sys.exit(f"{INTERFACE} has {signature}, but no library does")


def whole_abi(built: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What can be called at the contract's address, its libraries' functions among it, and what it
    may refuse with or emit. Each entry once, in a fixed order."""
    entries = [plain(entry) for each in built for entry in each["abi"]]
    entries = [entry for entry in entries if entry["type"] != "fallback"]
    whole = {json.dumps(entry, sort_keys=True): entry for entry in entries}
    return sorted(whole.values(), key=lambda e: (e["type"], e.get("name", ""), json.dumps(e)))


def plain(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry in which enums are numbers, as everywhere but in a library's interface."""
    changed = dict(entry)
    for field in ("inputs", "outputs", "components"):
        if field in entry:
            changed[field] = [plain(each) for each in entry[field]]
    if str(entry.get("internalType", "")).startswith("enum "):
        changed["type"] = "uint8"
    return changed


def unlinked(bytecode: dict[str, Any]) -> str:
    """Creation bytecode with zeros in the places of the libraries' addresses."""
    code = bytearray(bytecode["object"].encode())
    for places in links_of(bytecode).values():
        for place in places:
            code[2 * place : 2 * (place + ADDRESS_BYTES)] = b"00" * ADDRESS_BYTES
    return "0x" + code.decode()


def links_of(bytecode: dict[str, Any]) -> dict[str, list[int]]:
    """Library → where its address belongs in the creation bytecode, in bytes."""
    found = {}
    for file in bytecode["linkReferences"].values():
        for name, places in file.items():
            assert all(place["length"] == ADDRESS_BYTES for place in places)
            found[name] = [place["start"] for place in places]
    return found


def main() -> None:
    text = artifact_text(sources())
    if "--check" in sys.argv[1:]:
        if not ARTIFACT.exists() or ARTIFACT.read_text() != text:
            sys.exit(
                f"{ARTIFACT} is not what contracts/*.sol give: run `python contracts/build.py`"
            )
        print(f"{ARTIFACT.name} is fresh")
        return
    ARTIFACT.parent.mkdir(parents=True, exist_ok=True)
    temporary = ARTIFACT.with_suffix(".new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(ARTIFACT)
    sizes = ", ".join(f"{n} {size:,}" for n, size in json.loads(text)["runtime_sizes"].items())
    print(f"{ARTIFACT}: of {RUNTIME_LIMIT_BYTES:,} bytes at run time: {sizes}")


if __name__ == "__main__":
    main()
