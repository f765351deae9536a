"""A model as a folder that people can keep, use and pass on.

    model.safetensors       the whole model, in the types of the plan's own; opens anywhere
    statistics.safetensors  what the members' sums came to: without it nothing is prepared rightly
    plan/                   the plan's code, under the digest to which the members consented
    card.json, card.md      what it is, who made it from what, and the digests of the rest

A folder appears whole or not at all, and is read only if every file is what the card says.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec

from swarm.errors import ConfigurationError
from swarm.learning.code import bundle
from swarm.learning.code.bundle import Bundle
from swarm.learning.models.card import Card, decode_card, encode_card, write_markdown
from swarm.tensors import TensorFile, open_file
from swarm.types import Digest, to_digest, to_hex

MODEL, STATISTICS, PLAN = "model.safetensors", "statistics.safetensors", "plan"
CARD, CARD_FOR_PEOPLE = "card.json", "card.md"
ALIGNMENT_BYTES = 8


@dataclass(frozen=True)
class ModelFolder:
    """A folder that was read and found to be what its card says."""

    path: Path
    card: Card

    @property
    def model(self) -> Path:
        return self.path / MODEL

    @property
    def statistics(self) -> Path | None:
        """The merged sums; None if the plan has none."""
        return self.path / STATISTICS if STATISTICS in self.card.files else None

    @property
    def plan(self) -> Path:
        return self.path / PLAN

    @property
    def plan_digest(self) -> Digest:
        return to_digest(self.card.plan)


def check_free(path: Path, force: bool) -> None:
    """Raise ConfigurationError unless a model folder may be written at `path`: it is new, or it is
    one already and `force` allows to replace it."""
    if not path.parent.is_dir():
        raise ConfigurationError(f"{path.parent} is no directory: make it first")
    if path.suffix == ".safetensors":
        raise ConfigurationError(
            f"{path} would be a folder, which holds {MODEL} and what is needed to use it: name it "
            f"{path.stem}, say"
        )
    if not (path.exists() or path.is_symlink()):
        return
    if not (path / CARD).is_file():
        raise ConfigurationError(f"{path} exists, and is no model's folder: choose another name")
    if not force:
        raise ConfigurationError(
            f"{path} exists: name another folder, or give --force to replace it"
        )


def write_folder(
    path: Path, model: Path, statistics: Path | None, code: Bundle, card: Card, force: bool = False
) -> ModelFolder:
    """Make the folder from a whole model as a canonical file, the merged sums, and the code.

    The card's `files` and `made_by` are filled in. Raises ConfigurationError as `check_free`,
    BlobError for a file that is not canonical.
    """
    check_free(path, force)
    partial = Path(tempfile.mkdtemp(".partial", f".{path.name}.", path.parent))
    try:
        told = {"format": "pt", "plan": card.plan, "model": card.model, "round": str(card.round)}
        _write_with_metadata(open_file(model), partial / MODEL, told)
        if statistics is not None:
            shutil.copyfile(statistics, partial / STATISTICS)
        code.write(partial / PLAN)
        files = {p.name: _sha256(p) for p in sorted(partial.glob("*.safetensors"))}
        files[PLAN] = to_hex(code.digest)
        card = msgspec.structs.replace(card, files=files, made_by=version("swarm"))
        write_card(partial, card)
        partial.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return ModelFolder(path, card)


def write_card(path: Path, card: Card) -> None:
    """Write a folder's card, in both forms."""
    for name, content in ((CARD, encode_card(card)), (CARD_FOR_PEOPLE, _markdown(card))):
        temporary = path / f".{name}.partial"
        temporary.write_bytes(content)
        temporary.replace(path / name)


def read_folder(path: Path) -> ModelFolder:
    """A model's folder, every file of it compared with its card.

    Raises ConfigurationError naming what is missing or was changed.
    """
    file = path / CARD
    if not file.is_file():
        raise ConfigurationError(
            f"{path} is no model's folder, as it has no {CARD}: `swarm model export` makes one"
        )
    card = decode_card(file.read_bytes(), str(file))
    unknown = sorted(card.files.keys() - {MODEL, STATISTICS, PLAN})
    missing = sorted({MODEL, PLAN} - card.files.keys())
    if unknown or missing:
        raise ConfigurationError(f"{file} names other files than a model has: {unknown or missing}")
    for name, digest in card.files.items():
        found = _digest_of(path / name)
        if found != digest:
            raise ConfigurationError(
                f"{path / name} was changed: its digest is {found}, and the card says {digest}; "
                "get the model again from whom you have it"
            )
    if card.files[PLAN] != card.plan:
        raise ConfigurationError(f"{file} names two plans: get the model again")
    return ModelFolder(path, card)


def _digest_of(path: Path) -> str:
    if path.name == PLAN:
        return to_hex(bundle.read(path).digest)
    if not path.is_file():
        raise ConfigurationError(f"{path} is missing: get the model again from whom you have it")
    return _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return "0x" + hashlib.file_digest(file, "sha256").hexdigest()


def _markdown(card: Card) -> bytes:
    return write_markdown(card).encode("utf-8", "backslashreplace")


def _write_with_metadata(file: TensorFile, out: Path, metadata: Mapping[str, str]) -> None:
    """The same tensors as safetensors with metadata, which canonical files have no room for."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for spec in file.layout.specs:
        start, end = end, end + spec.size_bytes
        header[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": (start, end)}
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % ALIGNMENT_BYTES)
    with out.open("wb") as written:
        written.write(len(text).to_bytes(8, "little") + text)
        for spec in file.layout.specs:
            file[spec.name].tofile(written)
