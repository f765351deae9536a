"""What a node keeps beside its chain, compared with its names and with the history: blobs, and its
own records of the rounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from swarm.audit.report import Fault, History, RoundHistory
from swarm.blobs.manifest import MAX_MANIFEST_BYTES, Manifest
from swarm.errors import UNREADABLE, BlobError
from swarm.rounds.records import RoundRecord
from swarm.types import to_digest, to_hex

BLOB, MANIFEST = ".blob", ".manifest"
_records = msgspec.json.Decoder(RoundRecord)


def check_blobs(folder: Path, faults: list[Fault]) -> tuple[int, int]:
    """Compare each blob with its name, chunk by chunk. Returns how many there are, and their
    bytes; notes each fault."""
    count = total = 0
    for file in sorted(folder.glob(f"*{BLOB}")):
        count += 1
        try:
            total += file.stat().st_size
            faults.extend(_faults_of(file))
        except (OSError, ValueError, BlobError) as error:
            faults.append(Fault(f"blobs/{file.name}", str(error)))
    return count, total


def _faults_of(file: Path) -> Iterator[Fault]:
    root = to_digest(f"0x{file.stem}")
    with file.with_suffix(MANIFEST).open("rb") as manifest_file:
        manifest = Manifest.decode(manifest_file.read(MAX_MANIFEST_BYTES + 1), root)
    size = file.stat().st_size
    if size != manifest.length_bytes:
        yield Fault(f"blobs/{file.name}", f"{size} bytes, of {manifest.length_bytes}")
        return
    with file.open("rb") as blob:
        for index in range(manifest.chunks):
            start, stop = manifest.chunk_range(index)
            if not manifest.matches(index, blob.read(stop - start)):
                place = f"blobs/{file.name}, bytes {start} to {stop - 1}"
                yield Fault(place, f"they are not those of the blob {to_hex(root)}")


def check_records(folder: Path, history: History, faults: list[Fault]) -> int:
    """Compare this node's records of final rounds with the chain's. Returns how many there are."""
    count = 0
    for plan in history.plans:
        final = {r.round: r for r in plan.rounds if r.outcome == "final"}
        file = folder / f"plan-{plan.number}.jsonl"
        names = {member.number: member.name for member in history.members}
        for line, record in _read(file, faults):
            count += 1
            place = f"records/{file.name}, line {line}"
            if not record.model:
                continue
            if record.round not in final:
                faults.append(Fault(place, f"the chain has no final round {record.round}"))
            else:
                faults.extend(_differences(place, record, final[record.round], names))
    return count


def _read(file: Path, faults: list[Fault]) -> list[tuple[int, RoundRecord]]:
    if not file.exists():
        return []
    lines = file.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines[:-1], 1):  # a kill may have cut the last one short
        try:
            found.append((number, _records.decode(line)))
        except UNREADABLE as error:
            faults.append(Fault(f"records/{file.name}, line {number}", f"unreadable: {error}"))
    return found


def _differences(
    place: str, record: RoundRecord, final: RoundHistory, names: dict[int, str]
) -> Iterator[Fault]:
    def name(member: int | None) -> str:
        return "" if member is None else names.get(member, f"member {member}")

    said = {
        "model": record.model,
        "leader": name(record.leader),
        "contributors": {name(m) for m in record.contributors},
        "omitted": {name(m): why for m, why in record.omitted.items()},
    }
    chain = {
        "model": final.model,
        "leader": final.leader,
        "contributors": set(final.contributors),
        "omitted": final.omitted,
    }
    for what, value in said.items():
        if value != chain[what]:
            yield Fault(
                place, f"round {final.round}, {what}: {value!r} here, {chain[what]!r} on the chain"
            )
