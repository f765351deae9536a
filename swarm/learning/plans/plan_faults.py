"""Turning whatever a plan's code raises into one sentence with file and line.

Code of the user may raise anything. It is caught only here, named with the place in the plan where
it happened, and becomes a PlanError; running out of memory is the machine's fault. Where no frame
of the plan is on the stack, because what it returned is of no use to us, the place is that of the
method that returned it.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from swarm.errors import ConfigurationError, LocalError, PlanError, SwarmError
from swarm.learning.plans.plan import Plan

MAX_TEXT = 500


@contextmanager
def plan_faults(
    folder: Path, doing: str, plan: type[Plan] | None = None, method: str = ""
) -> Iterator[None]:
    """Turn whatever the plan's code raises into PlanError with its place in the plan.

    `method` of `plan` is what is being called. Our own errors pass, and get that place; memory that
    ran out becomes LocalError. A plan that asks to end the process has raised, too.
    """
    try:
        yield
    except SwarmError as error:
        place = _place(folder, error) or method_place(folder, plan, method)
        if isinstance(error, ConfigurationError):
            told = f"{place}: {error}" if place and ".py:" not in str(error) else str(error)
            raise PlanError(told) from error
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise LocalError(
            f"out of memory while {doing}: {_text(error)}; lower the plan's batch_size, or free "
            "memory"
        ) from error
    except (Exception, SystemExit) as error:
        place = _place(folder, error) or method_place(folder, plan, method) or str(folder)
        kind = type(error).__name__
        raise PlanError(f"{place}: while {doing}: {kind}: {_text(error)}") from error


@contextmanager
def machine_faults() -> Iterator[None]:
    """What the system refuses to our own code is no fault of the plan."""
    try:
        yield
    except OSError as error:
        raise LocalError(f"{error}; check the disk's free space and permissions") from error


def method_place(folder: Path, plan: type[Plan] | None, method: str) -> str | None:
    """ "plan.py:12 in model", where the plan defines it; the plan's class if it does not."""
    if plan is None:
        return None
    code = getattr(getattr(plan, method, None), "__code__", None)
    if code is not None and Path(code.co_filename).is_relative_to(folder):
        return f"{Path(code.co_filename).relative_to(folder)}:{code.co_firstlineno} in {method}"
    try:
        file = Path(inspect.getfile(plan))
        _, line = inspect.getsourcelines(plan)
    except (OSError, TypeError):
        return None  # a class made on the fly has no file
    name = file.relative_to(folder) if file.is_relative_to(folder) else file.name
    return f"{name}:{line} in {plan.__name__}"


def frame_place(folder: Path, frame: FrameType | None) -> str:
    """ "plan.py:42 in loss", of the innermost frame from here that lies in the plan's folder."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.suffix == ".py" and path.is_relative_to(folder):
            return f"{path.relative_to(folder)}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


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


def _text(error: BaseException) -> str:
    """What an exception says, on one line of valid Unicode. Its `__str__` may raise as well."""
    try:
        said = str(error)
    except Exception as second:  # noqa: BLE001 (whatever it is, it must not hide the first)
        said = f"it cannot say what is wrong ({type(second).__name__})"
    if isinstance(error, SystemExit):
        said = f"the plan asks to end the process ({said}): raise an error instead"
    return " ".join(valid_text(said).split())[:MAX_TEXT] or "without a word"


def valid_text(text: str) -> str:
    """Text as it can be sent: what is no Unicode, such as bytes of a file's name, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
