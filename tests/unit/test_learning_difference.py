"""What changed of a plan's code, for somebody who has read it before."""

from __future__ import annotations

from swarm.learning.code.difference import MAX_FILE_LINES, MAX_LINES, difference


def test_changed_new_and_removed_files_are_told_line_by_line() -> None:
    before = {"plan.py": "a\nb\nc\n", "old.py": "x\n", "same.py": "s"}
    after = {"plan.py": "a\nB\nc\n", "new.py": "y\n", "same.py": "s"}
    lines = difference(before, after)
    assert "--- plan.py" in lines
    assert "-b" in lines
    assert "+B" in lines
    assert lines[lines.index("--- nothing") + 1] == "+++ new.py"
    assert lines[lines.index("--- old.py") + 1] == "+++ nothing"
    assert not any("same.py" in line for line in lines)
    assert difference(before, before) == []


def test_what_would_hide_a_change_on_a_terminal_shows() -> None:
    lines = difference({"plan.py": "a"}, {"plan.py": "a\x1b[2K\rb"})
    assert "+a\\x1b[2K\\x0db" in lines


def test_a_diff_is_bounded_and_says_so() -> None:
    long = {"plan.py": "\n".join(map(str, range(MAX_FILE_LINES + 1)))}
    assert difference({"plan.py": ""}, long) == [
        f"plan.py differs: 1 lines, now {MAX_FILE_LINES + 1}, too many to compare"
    ]
    lines = difference({}, {"plan.py": "x\n" * (MAX_LINES + 100)})
    assert len(lines) == MAX_LINES + 1
    assert lines[-1].startswith("… and ")
