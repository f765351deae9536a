"""The tool that plants small faults: what it changes, what it remembers, how it knows what runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.mutation import journal as journals
from harness.mutation import mutants
from harness.mutation.journal import Journal
from harness.mutation.mutants import Mutant, Verdict, mutants_of

TEST = "def test_a():\n    assert one\n\n\ndef test_b():\n    assert two\n"
Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file of a small repository."""
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(journals, "ROOT", tmp_path)

    def put(name: str, text: str) -> None:
        (tmp_path / name).write_text(text)
        journals._digest_of.cache_clear()
        journals._texts.cache_clear()

    return put


def changes(file: str) -> set[str]:
    return {mutant.after for mutant in mutants_of(file)}


def test_python_is_changed_in_functions_constants_fields_and_decorators(write: Write) -> None:
    write("a.py", "@record(frozen=True)\nclass A:\n    b: int = 1\n\n\nC = 2\n")
    assert changes("a.py") == {"@record(frozen=False)", "b: int = 2", "C = 3"}
    write("a.py", "def f(a: int) -> bool:\n    'no 1'\n    return a < 1\n")
    assert changes("a.py") == {"return a <= 1", "return a < 2"}


def test_solidity_is_changed_by_tokens_and_statements_and_not_in_comments(write: Write) -> None:
    write("a.sol", "pragma solidity 0.8.37;\nif (a < 1) revert No(); // < 1\n")
    assert changes("a.sol") == {
        "if (a <= 1) revert No(); // < 1",
        "if (a < 2) revert No(); // < 1",
        "{}",
    }


def test_an_interrupted_run_goes_on_and_a_changed_source_begins_anew(
    write: Write, tmp_path: Path
) -> None:
    write("a.py", "C = 1\nD = 2\n")
    write("t.py", TEST)

    def journal() -> Journal:
        return Journal("a", ["a.py"], ["t.py"], tmp_path)

    first, second = mutants_of("a.py")
    journal().write(Verdict(first, "t.py::test_a[1]", 1.0))
    journal().write(Verdict(second, None, 2.0))
    assert journal().missing([first, second]) == []
    assert [v.found_by for v in journal().verdicts([second, first])] == [None, "t.py::test_a[1]"]
    write("t.py", TEST + "\n\ndef test_c():\n    assert three\n")
    assert journal().missing([first, second]) == [second]  # the new test may find it
    write("t.py", TEST.replace("one", "1"))
    assert journal().missing([first, second]) == [first, second]
    write("t.py", TEST)
    assert journal().missing([first, second]) == []
    write("a.py", "C = 1\nD = 2  # two\n")
    assert journal().missing([first, second]) == [first, second]


def test_what_a_test_runs_is_remembered_until_its_text_changes(
    write: Write, tmp_path: Path
) -> None:
    write("a.py", "C = 1\n")
    write("t.py", TEST)
    runs = {"t.py::test_a[1]": (0.5, {("a.py", "f", 1)}), "t.py::test_b": (0.25, {("everywhere",)})}
    for test, (seconds, places) in runs.items():
        Journal("a", ["a.py"], ["t.py"], tmp_path).note_run(test, seconds, places)
    assert Journal("a", ["a.py"], ["t.py"], tmp_path).runs() == runs
    write("t.py", TEST.replace("one", "1"))
    assert Journal("a", ["a.py"], ["t.py"], tmp_path).runs().keys() == {"t.py::test_b"}


def test_a_mutant_has_one_name_wherever_its_line_stands(write: Write) -> None:
    def only() -> Mutant:
        (found,) = mutants_of("a.py")
        return found

    write("a.py", "C = 1\n")
    before = only()
    write("a.py", "\n\nC = 1\n")
    assert before.name == only().name == "a.py: C = 1 -> C = 2"
    assert before.key != only().key


def test_a_source_map_is_read_as_the_compilers_manual_has_it() -> None:
    from harness.mutation.solidity import _spans

    code = bytes.fromhex("600161ffff0001")
    read = dict(_spans(code, "1:2:0:-;;9:1:7;:5:0", {0: "a.sol"}))
    assert read == {0: ("a.sol", 1, 3), 2: ("a.sol", 1, 3), 6: ("a.sol", 9, 14)}
