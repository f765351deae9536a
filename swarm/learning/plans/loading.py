"""Importing a plan: finding its one class, or a user's script, in the code with the consented
digest."""

from __future__ import annotations

from pathlib import Path

from swarm.errors import PlanError
from swarm.learning.code import bundle
from swarm.learning.code.importer import import_file, use_modules_of
from swarm.learning.plans.plan import Plan
from swarm.learning.plans.plan_faults import plan_faults
from swarm.learning.plans.settings import check_names, check_signatures
from swarm.learning.scripts.reader import read_script
from swarm.learning.scripts.script import script_plan
from swarm.types import Digest, to_hex


def load_plan(path: Path, digest: Digest | None = None) -> Plan:
    """Import the plan in a folder (or one file) and make its one instance. A script is not run yet.

    Raises PlanError if its bundle differs from `digest`, it does not import, it neither joins as a
    script nor defines exactly one Plan, or its rules cannot be.
    """
    found = bundle.read(path)
    check_digest(path, found, digest)
    file = path / "plan.py" if path.is_dir() else path
    use_modules_of(file.parent, found.files if path.is_dir() else {})
    script = read_script(found.files["plan.py"], file.name)
    if script is not None:
        return script_plan(script, found.files["plan.py"], file)
    name = file.stem  # as its own processes import it: workers of a DataLoader, say
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
        raise PlanError(
            f"{file} must define exactly one subclass of swarm.Plan, or call swarm.join as a "
            f"script does; it has {names}"
        )
    with plan_faults(file.parent, "making the plan"):
        check_names(classes[0])
        check_signatures(classes[0])
        return classes[0]()


def check_digest(path: Path, found: bundle.Bundle, digest: Digest | None) -> None:
    """Raise PlanError unless the bundle read at `path` is the consented one (None: any is)."""
    if digest is not None and found.digest != digest:
        raise PlanError(
            f"the plan in {path} has the digest {to_hex(found.digest)}, but the consortium "
            f"consented to {to_hex(digest)}: get that version, or propose yours as a new plan"
        )
