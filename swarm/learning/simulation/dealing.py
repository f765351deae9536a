"""How an example's data is dealt to the nodes of a testnet on one machine.

A plan's folder may hold `data/`: every file or folder directly below it is the data of one site,
under its own name, save hidden files and those that only describe, such as README. `sites.toml` may
name them instead, and say how many peers are the usual number:

    peers = 4
    [[site]]
    name = "cleveland"
    path = "data/cleveland.csv"

With fewer peers than sites, the sites are dealt out in turn, and a peer then holds several. In the
world no one deals: each institution names its own files in its `node.toml`.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from swarm.errors import UNREADABLE, ConfigurationError, PlanError
from swarm.protocol.names import lookalike_key

MAX_NAME = 40
DOCUMENT = re.compile(r"(?i)(readme|licen[cs]e|notice|copying|changelog|citation)\b|.*\.(md|pdf)$")
"""Files that tell of the data, and hold none."""

PACKED = re.compile(r"\.(gz|bz2|xz|zst)$", re.IGNORECASE)
KIND = re.compile(r"\.[A-Za-z0-9]{1,8}(\.(gz|bz2|xz|zst))?$")
"""The end of a file's name that is no part of its site's: "St. Mary.csv" is St. Mary's."""
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


@dataclass(frozen=True)
class SiteFiles:
    """One testnet site: its name and the files or folders that are its own."""

    name: str
    sources: tuple[Path, ...]

    def place_in(self, folder: Path) -> Path:
        """What the node is to be given as its data once it is copied to `folder`: one file stays
        a file; a folder, or several sources, become that folder."""
        alone = len(self.sources) == 1 and self.sources[0].is_file()
        return folder / self.sources[0].name if alone else folder

    def copy_to(self, folder: Path) -> Path:
        """Copy this site's data to `folder`; return its place there."""
        folder.mkdir(parents=True, exist_ok=True)
        if len(self.sources) == 1 and self.sources[0].is_file():
            shutil.copy(self.sources[0], self.place_in(folder))
            return self.place_in(folder)
        for source in self.sources:
            if source.is_dir():
                shutil.copytree(source, folder, dirs_exist_ok=True)
            else:
                shutil.copy(source, folder / source.name)
        return folder


class _Site(msgspec.Struct, forbid_unknown_fields=True):
    name: Name
    path: str


class _Sites(msgspec.Struct, forbid_unknown_fields=True):
    peers: Annotated[int, msgspec.Meta(ge=1, le=256)] | None = None
    site: list[_Site] = []


def deal(plan: Path, peers: int | None = None) -> list[SiteFiles]:
    """The testnet sites of the plan in the folder `plan` (or of one `.py` file in its folder),
    dealt to `peers` nodes.

    `peers=None` takes the number in sites.toml, or one node for each site.
    Raises PlanError if the plan ships no data or sites.toml is wrong, and ConfigurationError if
    there are fewer sites than peers.
    """
    usual, sites = _read(plan.parent if plan.is_file() else plan)
    count = peers if peers is not None else (usual or len(sites))
    if not 1 <= count <= len(sites):
        raise ConfigurationError(
            f"{plan} has data for {len(sites)} sites: choose --peers between 1 and {len(sites)}"
        )
    dealt = [sites[start::count] for start in range(count)]
    return [
        SiteFiles(_joined([s.name for s in group]), tuple(x for s in group for x in s.sources))
        for group in dealt
    ]


def _joined(names: list[str]) -> str:
    """One name for a node that holds several sites: theirs, as far as a member's name has room."""
    whole = "+".join(names)
    return whole if len(whole) <= MAX_NAME else f"{names[0]}+{len(names) - 1}_more"


def _read(plan: Path) -> tuple[int | None, list[SiteFiles]]:
    file = plan / "sites.toml"
    if file.exists():
        try:
            declared = msgspec.toml.decode(file.read_bytes(), type=_Sites)
        except (*UNREADABLE, ValueError) as error:
            raise PlanError(f"{file}: {error}") from error
        if declared.site:
            sites = [SiteFiles(s.name, (_inside(plan, s.path),)) for s in declared.site]
            _refuse_one_name(file, sites)
            return declared.peers, sites
        return declared.peers, _by_convention(plan)
    return None, _by_convention(plan)


def _by_convention(plan: Path) -> list[SiteFiles]:
    folder = plan / "data"
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [p for p in entries if not p.name.startswith(".") and not DOCUMENT.match(p.name)]
    if not found:
        raise PlanError(f"{folder} holds no data: put one file or folder for each site there")
    _refuse_strays(folder, found)
    sites = [SiteFiles(p.name if p.is_dir() else KIND.sub("", p.name), (p,)) for p in found]
    _refuse_one_name(folder, sites)
    return sites


def _refuse_strays(folder: Path, found: list[Path]) -> None:
    """Of files of several kinds some are no site's, and only a person knows which. A packed file
    is of the kind of what is in it."""
    kinds = {p: Path(PACKED.sub("", p.name)).suffix.lower() for p in found if p.is_file()}
    first_of = {kinds[p]: p for p in reversed(found) if p in kinds}
    if len(first_of) > 1:
        names = " and ".join(p.name for p in reversed(first_of.values()))
        raise PlanError(
            f"{folder} holds {names}: is each of them a site? Move what is none, or name the "
            f"sites in {folder.parent / 'sites.toml'}"
        )


def _refuse_one_name(place: Path, sites: list[SiteFiles]) -> None:
    seen: dict[str, SiteFiles] = {}
    for site in sites:
        other = seen.setdefault(lookalike_key(site.name), site)
        if other is not site:
            raise PlanError(
                f"{place}: the sites {other.name!a} and {site.name!a} look alike: "
                "give one of them another name"
            )


def _inside(plan: Path, name: str) -> Path:
    path = plan / name
    if not name.isprintable():
        raise PlanError(f"{plan / 'sites.toml'}: {name!r} is no path")
    if os.path.isabs(name) or not path.resolve().is_relative_to(plan.resolve()):
        raise PlanError(f"{plan / 'sites.toml'}: {name!r} leaves the plan's folder")
    if not os.path.exists(
        path
    ):  # which takes a name that no disk can hold for one that is not there
        raise PlanError(f"{plan / 'sites.toml'}: {path} does not exist")
    return path
