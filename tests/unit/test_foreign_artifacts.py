"""The contract as Hardhat and Foundry read it: the shapes that they ask for, and the same code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from swarm.chain.contract import artifact
from swarm.chain.foreign_artifacts import foreign_artifacts
from swarm.cli import main
from swarm.types import Address

NAMES = ["Consortium", "MaskedRounds", "Membership", "Views"]
PLACEHOLDER = re.compile(r"__\$[0-9a-f]{34}\$__")


def written(form: str, folder: Path) -> dict[str, Any]:
    """What the command writes, by the contract's name."""
    ran = CliRunner().invoke(main, ["contract", "artifact", "--for", form, str(folder)])
    assert ran.exit_code == 0, ran.output
    paths = [Path(line) for line in ran.output.splitlines()]
    assert paths == [folder / f"{name}.sol" / f"{name}.json" for name in NAMES]
    return {path.stem: json.loads(path.read_text()) for path in paths}


def linked(code: str, references: Any, places: dict[str, Address]) -> bytes:
    """What a tool makes of code with placeholders, once the libraries have addresses."""
    for source, libraries in references.items():
        for library, holes in libraries.items():
            assert source == f"{library}.sol"
            for hole in holes:
                start, end = (2 + 2 * n for n in (hole["start"], hole["start"] + hole["length"]))
                assert PLACEHOLDER.fullmatch(code[start:end])
                code = code[:start] + places[library].hex() + code[end:]
    return bytes.fromhex(code.removeprefix("0x"))


PLACES = {name: Address(bytes([number]) * 20) for number, name in enumerate(NAMES[1:], 1)}


def test_hardhat_gets_an_artifact_of_its_format_for_each_contract(tmp_path: Path) -> None:
    files = written("hardhat", tmp_path / "artifacts")
    for name, content in files.items():
        assert list(content) == [
            *("_format", "contractName", "sourceName", "abi", "bytecode", "deployedBytecode"),
            *("linkReferences", "deployedLinkReferences"),
        ]
        assert content["_format"] == "hh-sol-artifact-1"
        assert (content["contractName"], content["sourceName"]) == (name, f"{name}.sol")
    assert files["Consortium"]["abi"] == artifact().abi
    assert set(PLACES) == {n for of in files["Consortium"]["linkReferences"].values() for n in of}


def test_foundry_gets_objects_of_code_and_the_selectors(tmp_path: Path) -> None:
    files = written("foundry", tmp_path / "out")
    for content in files.values():
        assert list(content) == ["abi", "bytecode", "deployedBytecode", "methodIdentifiers"]
        for code in (content["bytecode"], content["deployedBytecode"]):
            assert set(code) == {"object", "sourceMap", "linkReferences"}
            assert code["object"].startswith("0x")
    selectors = files["Consortium"]["methodIdentifiers"]
    assert selectors["getValidators()"] == "b7ab4db5"
    assert len(selectors) == sum(item["type"] == "function" for item in artifact().abi)


def test_linking_as_these_tools_do_gives_the_code_that_this_package_deploys() -> None:
    hardhat, foundry = foreign_artifacts("hardhat"), foreign_artifacts("foundry")
    for name in NAMES:
        whole: Any = hardhat[name]
        other: Any = foundry[name]
        creation = linked(whole["bytecode"], whole["linkReferences"], PLACES)
        runtime = linked(whole["deployedBytecode"], whole["deployedLinkReferences"], PLACES)
        ours = artifact().libraries.get(name) or artifact().linked(PLACES)
        assert creation == ours
        assert creation.endswith(runtime)
        for code, expected in ((other["bytecode"], creation), (other["deployedBytecode"], runtime)):
            assert linked(code["object"], code["linkReferences"], PLACES) == expected


def test_a_file_that_is_there_is_named_and_kept(tmp_path: Path) -> None:
    mine = tmp_path / "Membership.sol" / "Membership.json"
    mine.parent.mkdir()
    mine.write_text("mine")
    arguments = ["contract", "artifact", "--for", "foundry", str(tmp_path)]
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 2
    assert f"{mine} exists: move it away, or name another folder" in ran.output
    assert mine.read_text() == "mine"
    assert not (tmp_path / "Consortium.sol").exists()


@pytest.mark.parametrize("form", ["truffle", ""])
def test_a_form_that_nobody_reads_is_refused_with_those_there_are(
    form: str, tmp_path: Path
) -> None:
    ran = CliRunner().invoke(main, ["contract", "artifact", "--for", form, str(tmp_path)])
    assert ran.exit_code == 2
    assert "'hardhat', 'foundry'" in ran.output
