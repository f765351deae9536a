"""What one version of a plan's code changes of another, for somebody who has read the other."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from swarm.visible import visible, visible_lines

MAX_FILE_LINES = 20_000
"""Of files that are compared line by line: the time for that grows with their product."""
MAX_LINES = 5_000


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """A unified diff, in which everything shows; bounded, and it says where it ends."""
    lines: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        old = visible_lines(before.get(name, ""))
        new = visible_lines(after.get(name, ""))
        if old == new and (name in before) == (name in after):
            continue
        shown = visible(name)
        if max(len(old), len(new)) > MAX_FILE_LINES:
            lines.append(f"{shown} differs: {len(old)} lines, now {len(new)}, too many to compare")
            continue
        was = shown if name in before else "nothing"
        is_now = shown if name in after else "nothing"
        lines += difflib.unified_diff(old, new, was, is_now, lineterm="")
    if len(lines) > MAX_LINES:
        more = len(lines) - MAX_LINES
        lines[MAX_LINES:] = [f"… and {more} more lines: compare the code as a whole"]
    return lines
