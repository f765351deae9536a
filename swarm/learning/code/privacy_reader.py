"""What a plan's code says of privacy, read and not run."""

from __future__ import annotations

import ast
from contextlib import suppress

from swarm.learning.code.bundle import Bundle


def read_privacy(code: Bundle) -> str | None:
    """The text of `privacy = …` in plan.py, as in "swarm.dp(epsilon=8)"; None if there is none."""
    with suppress(SyntaxError, ValueError, KeyError):
        for node in ast.walk(ast.parse(code.files["plan.py"])):
            if isinstance(node, ast.ClassDef):
                for line in node.body:
                    targets = line.targets if isinstance(line, ast.Assign) else ()
                    named = [t.id for t in targets if isinstance(t, ast.Name)]
                    if isinstance(line, ast.Assign) and "privacy" in named:
                        return ast.unparse(line.value)
    return None
