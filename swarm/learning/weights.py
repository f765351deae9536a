"""Weights that lie at a site, named by its options: a pretrained trunk, say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from swarm.errors import ConfigurationError

READ_BYTES = 1 << 20


def read_weights(
    options: Mapping[str, str | int | float | bool], name: str, sha256: str = ""
) -> dict[str, torch.Tensor]:
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
        tensors: dict[str, torch.Tensor] = load_file(path)
        return tensors
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(
            f"{path} (option {name!r}) cannot be read as safetensors: {error}: name a file that "
            "can, and that [data] read in node.toml lets the plan see"
        ) from None


def _digest_of(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            state.update(piece)
    return state.hexdigest()
