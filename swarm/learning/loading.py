"""Running a plan's code: finding its one class, and turning what it raises into one clear sentence.

Code of the user may raise anything. It is caught only here, named with the file and line in the
plan where it happened, and becomes a PlanError; running out of memory is the machine's fault.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch

from swarm.errors import LocalError, PlanError, SwarmError
from swarm.learning import bundle
from swarm.learning.importing import import_file, use_modules_of
from swarm.learning.messages import Rules
from swarm.learning.plan import Plan
from swarm.types import Digest, to_hex


def load_plan(path: Path, digest: Digest | None = None) -> Plan:
    """Import the plan in a folder (or one file) and make its one instance.

    Raises PlanError if its bundle differs from `digest`, it does not import, it does not define
    exactly one Plan, or its rules cannot be.
    """
    found = bundle.read(path)
    check_digest(path, found, digest)
    file = path / "plan.py" if path.is_dir() else path
    use_modules_of(file.parent, found.files if path.is_dir() else {})
    name = f"swarm_plan_{found.digest.hex()[:12]}"
    with plan_faults(file.parent, "importing the plan"):
        module = import_file(name, file, found.files["plan.py"])
    found_here = {
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Plan) and value.__module__ == name
    }
    classes = [c for c in found_here if not any(c in other.__mro__[1:] for other in found_here)]
    if len(classes) != 1:
        names = ", ".join(sorted(c.__name__ for c in classes)) or "none"
        raise PlanError(f"{file} must define exactly one subclass of swarm.Plan; it has {names}")
    with plan_faults(file.parent, "making the plan"):
        return classes[0]()


def check_digest(path: Path, found: bundle.Bundle, digest: Digest | None) -> None:
    """Raise PlanError unless the bundle read at `path` is the consented one (None: any is)."""
    if digest is not None and found.digest != digest:
        raise PlanError(
            f"the plan in {path} has the digest {to_hex(found.digest)}, but the consortium "
            f"consented to {to_hex(digest)}: get that version, or propose yours as a new plan"
        )


def rules_of(plan: Plan) -> Rules:
    """The plan's rules, checked. Raises PlanError naming the one that cannot be."""
    values = {name: getattr(plan, name) for name in Rules.__struct_fields__}
    try:
        return msgspec.convert(values, Rules)
    except msgspec.ValidationError as error:
        message = str(error).replace("$.", "")
        raise PlanError(f"{type(plan).__name__}: {message}: change it in plan.py") from None


@contextmanager
def plan_faults(folder: Path, doing: str) -> Iterator[None]:
    """Turn whatever the plan's code raises into PlanError with its place in the plan.

    Our own errors pass; memory that ran out becomes LocalError.
    """
    try:
        yield
    except SwarmError as error:
        place = _place(folder, error)
        if place and isinstance(error, PlanError) and place not in str(error):
            raise PlanError(f"{place}: {error}") from error
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise LocalError(
            f"out of memory while {doing}: {error}; lower the plan's batch_size, or free memory"
        ) from error
    except Exception as error:
        place = _place(folder, error) or str(folder)
        text = " ".join(str(error).split())[:500]
        raise PlanError(f"{place}: while {doing}: {type(error).__name__}: {text}") from error


def _place(folder: Path, error: BaseException) -> str | None:
    """ "plan.py:42 in loss", of the innermost frame that lies in the plan's folder."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        path = Path(frame.filename)
        if path.is_relative_to(folder) and path.suffix == ".py":
            return f"{path.relative_to(folder)}:{frame.lineno} in {frame.name}"
    return None
