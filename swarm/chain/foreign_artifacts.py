"""The contract's build in the forms that Hardhat and Foundry read.

What the package ships is compact: one interface for all that answers at the contract's address, and
creation code with zeros where libraries' addresses belong. Both tools want a file for each
contract, run-time code beside creation code, and solc's placeholders in those places, which they
replace when they deploy.

Hardhat: https://v2.hardhat.org/hardhat-runner/docs/advanced/artifacts
Foundry: https://getfoundry.sh/reference/common/compiler-artifacts (as solc names the fields)
"""

from __future__ import annotations

from typing import Literal

from eth_hash.auto import keccak

from swarm.chain.contract import ADDRESS_BYTES, CONTRACT, artifact, interface

Form = Literal["hardhat", "foundry"]
JsonObject = dict[str, object]


def foreign_artifacts(form: Form) -> dict[str, JsonObject]:
    """The file of the contract and of each of its libraries, by name, such as "Consortium".

    A library has no interface of its own: its functions are the contract's.
    """
    make = _hardhat if form == "hardhat" else _foundry
    return {name: make(name) for name in (CONTRACT, *sorted(artifact().libraries))}


def source_of(name: str) -> str:
    """The file in which a contract is written, as the compiler was told it."""
    return f"{name}.sol"


def _hardhat(name: str) -> JsonObject:
    creation, runtime = _codes(name)
    return {
        "_format": "hh-sol-artifact-1",
        "contractName": name,
        "sourceName": source_of(name),
        "abi": _abi(name),
        "bytecode": _with_placeholders(creation, _links(name, 0)),
        "deployedBytecode": _with_placeholders(runtime, _links(name, len(creation) - len(runtime))),
        "linkReferences": _references(_links(name, 0)),
        "deployedLinkReferences": _references(_links(name, len(creation) - len(runtime))),
    }


def _foundry(name: str) -> JsonObject:
    whole = _hardhat(name)
    selectors = {
        f"{entry.name}({','.join(entry.types)})": entry.selector.hex()
        for entry in interface().functions.values()
    }
    return {
        "abi": whole["abi"],
        "bytecode": {
            "object": whole["bytecode"],
            "sourceMap": "",
            "linkReferences": whole["linkReferences"],
        },
        "deployedBytecode": {
            "object": whole["deployedBytecode"],
            "sourceMap": "",
            "linkReferences": whole["deployedLinkReferences"],
        },
        "methodIdentifiers": selectors if name == CONTRACT else {},
    }


def _abi(name: str) -> list[JsonObject]:
    return artifact().abi if name == CONTRACT else []


def _codes(name: str) -> tuple[bytes, bytes]:
    """Creation code, and run-time code, which is its end."""
    built = artifact()
    creation = built.bytecode if name == CONTRACT else built.libraries[name]
    return creation, creation[-built.runtime_bytes[name] :]


def _links(name: str, start: int) -> dict[str, list[int]]:
    """Library → where its address belongs, counted from `start` of the creation code."""
    links = artifact().links if name == CONTRACT else {}
    return {library: [place - start for place in places] for library, places in links.items()}


def _references(links: dict[str, list[int]]) -> JsonObject:
    return {
        source_of(library): {
            library: [{"start": place, "length": ADDRESS_BYTES} for place in places]
        }
        for library, places in links.items()
    }


def _with_placeholders(code: bytes, links: dict[str, list[int]]) -> str:
    """Hexadecimal, with solc's placeholder for each library: the start of the hash of its name."""
    digits = code.hex()
    for library, places in links.items():
        named = keccak(f"{source_of(library)}:{library}".encode()).hex()
        placeholder = f"__${named[: 2 * ADDRESS_BYTES - 6]}$__"
        for place in places:
            digits = digits[: 2 * place] + placeholder + digits[2 * (place + ADDRESS_BYTES) :]
    return "0x" + digits
