"""What became of which mutant, and what each test runs, written down at once: an interrupted run
goes on from there."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from harness.mutation.mutants import ROOT, Mutant, Verdict

FOLDER = ROOT / ".mutants"


class Journal:
    """Verdicts on one state of the sources: another state has another file.

    That a test has found a mutant counts for as long as the text of that test is the same; that
    none has, for as long as all are.
    """

    def __init__(
        self, of: str, sources: Iterable[str], tests: Sequence[str], folder: Path = FOLDER
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / f"{of}-{_digest(sources)}.jsonl"
        self._runs = self.path.with_suffix(".runs.jsonl")
        """What each test runs without any mutant: long lines."""
        self.path.touch()
        self._runs.touch()
        self._tests = tests

    def write(self, verdict: Verdict) -> None:
        """One line, in one piece, also when several processes write."""
        line = {
            "mutant": verdict.mutant.key,
            "found_by": verdict.found_by,
            "text": self._text_behind(verdict.found_by),
            "seconds": verdict.seconds,
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def verdicts(self, mutants: Sequence[Mutant]) -> list[Verdict]:
        """What is known of these mutants and still counts, in their order."""
        lines = map(json.loads, self.path.read_text().splitlines())
        known = {
            line["mutant"]: (line["found_by"], line["seconds"])
            for line in lines
            if line["text"] == self._text_behind(line["found_by"])
        }
        return [Verdict(m, *known[m.key]) for m in mutants if m.key in known]

    def missing(self, mutants: Sequence[Mutant]) -> list[Mutant]:
        """The mutants of which nothing is known."""
        done = {verdict.mutant.key for verdict in self.verdicts(mutants)}
        return [mutant for mutant in mutants if mutant.key not in done]

    def note_run(self, test: str, seconds: float, places: Iterable[Any]) -> None:
        """A test passed without any mutant: how long it took, and to which places it came."""
        line = {"text": self._text_behind(test), "seconds": seconds, "places": sorted(places)}
        with self._runs.open("a") as file:
            file.write(json.dumps({"test": test} | line) + "\n")

    def runs(self) -> dict[str, tuple[float, set[Any]]]:
        """What `note_run` was told, by the test; of tests whose text is the same."""
        lines = map(json.loads, self._runs.read_text().splitlines())
        return {
            line["test"]: (line["seconds"], {tuple(place) for place in line["places"]})
            for line in lines
            if line["text"] == self._text_behind(line["test"])
        }

    def _text_behind(self, found_by: str | None) -> str:
        """What must not change for a verdict to count."""
        if found_by is None:
            return _digest(self._tests)
        file, _, test = found_by.partition("::")
        return _texts(file).get(test.split("[")[0], "gone") if test else ""


@cache
def _texts(file: str) -> dict[str, str]:
    """The digest of each test's text, by its name."""
    if not (path := ROOT / file).exists():
        return {}
    text = path.read_text()
    functions = [f for f in ast.parse(text).body if isinstance(f, ast.FunctionDef)]
    segments = ((f.name, ast.get_source_segment(text, f) or "") for f in functions)
    return {name: hashlib.sha256(segment.encode()).hexdigest()[:12] for name, segment in segments}


@cache
def _digest_of(files: tuple[str, ...]) -> str:
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file}\n".encode() + (ROOT / file).read_bytes())
    return whole.hexdigest()[:12]


def _digest(files: Iterable[str]) -> str:
    return _digest_of(tuple(sorted(files)))
