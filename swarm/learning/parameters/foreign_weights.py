"""Weights from elsewhere: a pretrained trunk at a site, or what a plan begins from.

Files of other programs, so they are read with the safetensors library, which takes headers in any
order; nothing in them runs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, load_file

from swarm.errors import ConfigurationError, PlanError
from swarm.learning.parameters.named_tensors import State, first_non_finite
from swarm.learning.parameters.next_file import is_added
from swarm.tensors import OpenFile

READ_BYTES = 1 << 20


def weights_of_option(
    options: Mapping[str, str | int | float | bool], name: str, sha256: str = ""
) -> State:
    """The tensors of the safetensors file that the option `name` says.

    Raises ConfigurationError if there is no such option or file, or if the file's SHA-256 is not
    `sha256` (in hex; any is right if it is empty).
    """
    path = options.get(name)
    if not isinstance(path, str):
        known = ", ".join(sorted(options)) or "none"
        raise ConfigurationError(
            f"the site has no option {name!r} that names a file of weights (its options: {known}): "
            "give it under [data.options] in node.toml"
        )
    try:
        found = _digest_of(Path(path)) if sha256 else ""
        if found != sha256.lower():
            raise ConfigurationError(
                f"{path} (option {name!r}) has the SHA-256 {found}, and the plan asks for "
                f"{sha256}: get that version"
            )
        tensors: State = load_file(path)
        return tensors
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(
            f"{path} (option {name!r}) cannot be read as safetensors: {error}: name a file that "
            "can, and that [data] read in node.toml lets the plan see"
        ) from None


def read_weights(file: OpenFile) -> State:
    """All tensors of an open safetensors file. Raises ConfigurationError if it is none."""
    try:
        with os.fdopen(os.dup(file.descriptor), "rb") as opened:
            opened.seek(0)
            tensors: State = load(opened.read())
            return tensors
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"{file} cannot be read as safetensors: {error}") from None


def with_values_of(initial: State, base: State, name: str) -> State:
    """The model `initial` with the values of `base`, which is called `name` in messages.

    Raises PlanError naming the first tensor that one has and the other has not, or has otherwise.
    """
    base = {tensor: value for tensor, value in base.items() if not is_added(tensor)}
    for tensor in sorted(initial.keys() | base.keys()):
        ours, theirs = initial.get(tensor), base.get(tensor)
        if theirs is None:
            raise _unfit(name, f"has no tensor {tensor!r}, which the plan's model has")
        if ours is None:
            raise _unfit(name, f"has the tensor {tensor!r}, which the plan's model has not")
        if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            raise _unfit(
                name,
                f"has {tensor!r} as {theirs.dtype} {list(theirs.shape)}, and the plan's model as "
                f"{ours.dtype} {list(ours.shape)}",
            )
    broken = first_non_finite(base)
    if broken is not None:
        raise _unfit(name, f"has NaN or infinite values in {broken!r}")
    return {tensor: base[tensor] for tensor in initial}


def _unfit(name: str, why: str) -> PlanError:
    return PlanError(f"the plan cannot begin from {name}: it {why}; change the one or the other")


def _digest_of(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            state.update(piece)
    return state.hexdigest()
