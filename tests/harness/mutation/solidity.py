"""Mutants of the contract: compiled by one warm compiler, and put where tests deploy from.

Mutants are compiled without the optimizer, and only those contracts whose code comes from the
changed definition: a few seconds each instead of twenty. What they do is the same; what they cost
and how large they are is not, so tests of gas and size run on the real build only. The compiler's
source map tells which parts of the text a test executes, and so which tests may notice a change.
"""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any

import eth.vm.forks.spurious_dragon.computation as size_rule
from eth.vm.code_stream import CodeStream
from eth.vm.opcode_values import STOP

from harness.mutation.mutants import ROOT, Mutant
from harness.mutation.warm import Ready
from swarm.chain import contract

COMPILER = ROOT / "contracts" / "node_modules" / "solc"
PATIENCE_S = 600.0
PUSH1, PUSH32 = 0x60, 0x7F
Span = tuple[str, int, int]
"""Part of a source: file, and from which byte to which."""


@cache
def build() -> Any:
    """contracts/build.py, which is no part of a package."""
    sys.path.insert(0, str(ROOT / "contracts"))
    return import_module("build")


@dataclass(frozen=True)
class Built:
    """One contract as this compiler makes it."""

    creation: dict[str, Any]
    runtime_bytes: int
    spans: dict[int, Span]
    """By place in the runtime code, what it comes from."""
    setup: frozenset[Span]
    """What the creation code comes from, which runs once."""

    @classmethod
    def read(cls, evm: dict[str, Any], files: dict[int, str]) -> Built:
        creation, runtime = evm["bytecode"], evm["deployedBytecode"]
        code, setup = (re.sub("__.{38}", "0" * 40, each["object"]) for each in (runtime, creation))
        spans = dict(_spans(bytes.fromhex(code), runtime["sourceMap"], files))
        once = dict(_spans(bytes.fromhex(setup), creation["sourceMap"], files))
        return cls(creation, len(code) // 2, spans, frozenset(once.values()))


def _spans(code: bytes, source_map: str, files: dict[int, str]) -> Iterator[tuple[int, Span]]:
    """Place in the code → what it comes from, for instructions that come from one of our files. A
    field that is left out is as in the entry before (docs.soliditylang.org, "Source Mappings")."""
    at, fields = 0, ["0", "0", "-1"]
    for entry in source_map.split(";"):
        given = entry.split(":")[:3]
        fields = [new or old for new, old in zip_longest(given, fields, fillvalue="")]
        start, length, file = map(int, fields)
        if file in files:
            yield at, (files[file], start, start + length)
        if at >= len(code):
            return
        at += 1 + (code[at] - PUSH1 + 1 if PUSH1 <= code[at] <= PUSH32 else 0)


class Compiler:
    """solc in a process of its own, which stays."""

    def __init__(self) -> None:
        driver = Path(__file__).with_name("solc.js")
        self._process = subprocess.Popen(
            ["node", str(driver), str(COMPILER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def compile(
        self, texts: dict[str, str], contracts: set[str], via_ir: bool
    ) -> dict[str, Built] | None:
        """What the compiler makes of these contracts, by name; None if it refuses them."""
        if not contracts:
            return {}
        made = ["evm.bytecode.object", "evm.bytecode.linkReferences", "evm.bytecode.sourceMap"]
        made += ["evm.deployedBytecode.object", "evm.deployedBytecode.sourceMap"]
        request = {
            "language": "Solidity",
            "sources": {name: {"content": text} for name, text in texts.items()},
            "settings": build().SETTINGS
            | {
                "viaIR": via_ir,
                "optimizer": {"enabled": False},
                "outputSelection": {f"{name}.sol": {name: made} for name in contracts},
            },
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], PATIENCE_S)[0]:
            self.close()
            raise RuntimeError(f"the compiler has not answered within {PATIENCE_S:.0f} s")
        answer = json.loads(self._process.stdout.readline())
        if any(error["severity"] == "error" for error in answer.get("errors", ())):
            return None
        files = {each["id"]: name for name, each in answer["sources"].items()}
        return {
            name: Built.read(answer["contracts"][f"{name}.sol"][name]["evm"], files)
            for name in contracts
        }

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Contracts:
    """Puts mutants of the contract into this process: see `warm`."""

    exact = False

    def __init__(self) -> None:
        self._compiler = Compiler()
        self._texts: dict[str, str] = build().sources()
        self._direct: set[str] = set()
        """Contracts that the compiler makes without its intermediate language, in a tenth of the
        time. It refuses functions with many variables."""
        self._built: dict[str, Built] = {}
        for name in (build().CONTRACT, *build().LIBRARIES):
            built = self._compiler.compile(self._texts, {name}, via_ir=False)
            if built is not None:
                self._direct.add(name)
            else:
                built = self._compiler.compile(self._texts, {name}, via_ir=True)
            if built is None:
                raise RuntimeError(f"{name} does not compile without the optimizer")
            self._built |= built
        self._by_size = {each.runtime_bytes: each for each in self._built.values()}
        """Code that is linked and deployed differs from what was compiled, but not in size."""
        assert len(self._by_size) == len(self._built)
        self._artifact = _with(contract.artifact(), self._built)
        size_rule.EIP170_CODE_SIZE_LIMIT = sys.maxsize
        _install(self._artifact)

    @contextmanager
    def watch(self) -> Iterator[set[Any]]:
        """Notes the spans whose code runs."""
        seen: set[Any] = set()
        running: dict[bytes, set[int]] = {}
        plain = CodeStream.__iter__

        def noting(stream: CodeStream) -> Iterator[int]:
            code = stream._raw_code_bytes
            note = running.setdefault(code, set()).add
            while (at := stream.program_counter) < len(code):
                note(at)
                stream.program_counter = at + 1
                yield code[at]
            yield STOP

        CodeStream.__iter__ = noting
        try:
            yield seen
        finally:
            CodeStream.__iter__ = plain
            for code, places in running.items():
                if (built := self._by_size.get(len(code))) is not None:
                    seen.update(built.spans[at] for at in places if at in built.spans)

    def prepare(self, mutant: Mutant) -> Ready | str:
        """The mutant compiled, or why it does not come to a trial."""
        name = Path(mutant.file).name
        text = self._texts[name]
        start, stop = (len(text[:at].encode()) for at in (mutant.start, mutant.stop))

        def around(spans: Iterable[Span]) -> list[Span]:
            """Those that the mutant lies in, the smallest first."""
            found = {s for s in spans if s[0] == name and s[1] <= start and stop <= s[2]}
            return sorted(found, key=lambda s: s[2] - s[1])

        running = {each: around(built.spans.values()) for each, built in self._built.items()}
        once = {each for each, built in self._built.items() if around(built.setup)}
        changed = {each for each, spans in running.items() if spans} | once or set(running)
        texts = self._texts | {name: mutant.apply(text)}
        direct = self._compiler.compile(texts, changed & self._direct, via_ir=False)
        others = self._compiler.compile(texts, changed - self._direct, via_ir=True)
        if direct is None or others is None:
            return "it does not compile"
        # A part is run to its end by those that are not refused in it: what lies in it counts, too.
        places = {
            span
            for each, (nearest, *_) in ((c, spans) for c, spans in running.items() if spans)
            for span in self._built[each].spans.values()
            if span[0] == name and nearest[1] <= span[1] and span[2] <= nearest[2]
        }
        return Ready(places, partial(_install, _with(self._artifact, direct | others)))

    def close(self) -> None:
        self._compiler.close()


def _with(whole: contract.Artifact, built: dict[str, Built]) -> contract.Artifact:
    """The artifact with these contracts as they are built here."""
    code = {
        name: bytes.fromhex(build().unlinked(each.creation)[2:]) for name, each in built.items()
    }
    main = code.pop(build().CONTRACT, None)
    made = replace(whole, libraries=whole.libraries | code)
    if main is None:
        return made
    links = build().links_of(built[build().CONTRACT].creation)
    return replace(made, bytecode=main, links={n: tuple(at) for n, at in links.items()})


def _install(artifact: contract.Artifact) -> None:
    contract.artifact = lambda: artifact  # type: ignore[assignment]
