"""Where the data of the recipes come from: a public file becomes a file for each site.

    python examples/prepare.py xray --from FOLDER

FOLDER holds the public file that the recipe's README names. Small ones are in the repository as
this script wrote them; the others it writes for you. It is no part of any plan: no member runs it.
"""

import argparse
import csv
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from methods.score import hospitals, people

HERE = Path(__file__).parent


def leukaemia(source: Path, data: Path) -> None:
    """A file for each group that gave samples: a site."""
    file = opened(source, "leukaemia.npz")
    kind = np.where(file["y"] == 1, "AML", file["lineage"])
    for site in ("DFCI", "CALGB", "CCG", "St-Jude"):
        own = file["source"] == site
        columns = {name: file[name][own] for name in ("sample", "tissue")}
        columns |= {"expression": file["X"][own], "kind": kind[own], "probe": file["probes"]}
        np.savez_compressed(data / f"{site.lower()}.npz", **columns)


def survival(source: Path, data: Path) -> None:
    """A table for each region of the United States, Canada and Europe; "Other" is of 8 patients."""
    rows = list(csv.DictReader(_lines(source, "tcga_brca.csv.gz")))
    for region in ("Northeast", "West", "South", "Midwest", "Europe", "Canada"):
        own = [row for row in rows if row["region"] == region]
        _write_table(data / f"{region.lower()}.csv", own, leave_out=("tss", "region"))


def solubility(source: Path, data: Path) -> None:
    """A file for each of the nine sources, named by its letter."""
    file = opened(source, "aqsoldb.npz")
    for site in "ABCDEFGHI":
        own = file["source"] == site
        columns = {"bits": file["fp"][own], "descriptors": file["desc"][own]}
        columns |= {"solubility": file["y"][own], "descriptor_names": file["desc_names"]}
        np.savez_compressed(data / f"source_{site.lower()}.npz", **columns)


TARGETS = {"CHEMBL204": 0, "CHEMBL234": 1, "CHEMBL264": 2}
"""Thrombin, dopamine D3, histamine H3: by their numbers in the plan."""


def qsar(source: Path, data: Path) -> None:
    """A file for each company, which has chemical series of its own, of all targets together."""
    rows: dict[int, list[dict]] = {company: [] for company in range(4)}
    for name, target in TARGETS.items():
        file = opened(source, f"{name}_Ki_fp.npz")
        for company in rows:
            own = file["series"] == company
            columns = {"bits": file["fp"][own], "affinity": file["y"][own]}
            columns["target"] = np.full(own.sum(), target, np.uint8)
            rows[company].append(columns | {"is_test": file["is_test"][own]})
    for company, parts in rows.items():
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        np.savez_compressed(data / f"company_{company + 1}.npz", **joined)


PROTEINS = ("CD3", "CD15", "CD16", "CD25", "CD56")
MOST_VARIABLE = 1000


def proteins(source: Path, data: Path) -> None:
    """A file for each of four laboratories. The cells are of one donor, so we deal them: half of a
    laboratory's cells are drawn at random, half by how much CD3 they carry, as if each had sorted
    them by a gate of its own."""
    file, random = opened(source, "citeseq_pbmc.npz"), np.random.default_rng(0)
    counts = np.zeros(file["shape"], np.float32)
    cells = np.repeat(np.arange(len(counts)), np.diff(file["indptr"]))
    counts[cells, file["indices"]] = file["data"]
    rna = np.log1p(1000 * counts / counts.sum(axis=1, keepdims=True))
    genes = np.sort(np.argsort(-rna.var(axis=0))[:MOST_VARIABLE])
    measured = [list(file["proteins"]).index(name) for name in PROTEINS]
    protein = np.log1p(file["adt"][:, measured]).astype(np.float32)
    laboratory = np.argsort(np.argsort(protein[:, 0], kind="stable")) * 4 // len(protein)
    anywhere = random.random(len(protein)) < 0.5
    laboratory[anywhere] = random.integers(4, size=anywhere.sum())
    for number in range(4):
        own = laboratory == number
        columns = {"rna": rna[own][:, genes].astype(np.float16), "protein": protein[own]}
        np.savez_compressed(
            data / f"laboratory_{number + 1}.npz", **columns, gene=file["genes"][genes]
        )


VISITOR = "visitor.npz"


def xray(source: Path, data: Path) -> None:
    """Eight hospitals, as the methods' table deals them, and one that does not train: it has an
    eighth of the test images of each of them."""
    hospitals(source, data)
    rows: dict[str, list] = {}
    for path in sorted(data.glob("hospital*.npz")):
        file = dict(np.load(path))
        given = np.flatnonzero(file["is_test"])[::8]
        kept = np.setdiff1d(np.arange(len(file["y"])), given)
        for name, column in file.items():
            rows.setdefault(name, []).append(column[given])
        np.savez_compressed(path, **{name: column[kept] for name, column in file.items()})
    joined = {name: np.concatenate(columns) for name, columns in rows.items()}
    np.savez_compressed(data / VISITOR, **joined)


OUTCOME = {"4": 0, "3": 1, "2": 2, "1": 3}
"""OCCODE as a degree: recovered, not recovered, dependent, dead."""
LATER = ("RXASP", "RXHEP", "OCCODE", "ID14", "DIED", "TD", "poor6m")
"""Columns that were not known when the patient came in."""


def recovery(source: Path, data: Path) -> None:
    """The hospitals of examples/stroke, with the outcome in four degrees instead of two."""
    large = {int(path.stem.split("_")[1]) for path in (HERE / "stroke" / "data").glob("*.csv")}
    for hospital, rows in _stroke_patients(source).items():
        known = [
            row | {"outcome": OUTCOME[row["OCCODE"]]} for row in rows if row["OCCODE"] in OUTCOME
        ]
        if hospital in large:
            _write_table(data / f"hospital_{hospital}.csv", known, leave_out=LATER)


SMALL = 40


def small_hospitals(source: Path, data: Path) -> None:
    """The 40 largest of the hospitals with fewer than 60 patients."""
    of = _stroke_patients(source)
    small = [number for number, rows in of.items() if len(rows) < 60]
    for number in sorted(small, key=lambda number: (-len(of[number]), number))[:SMALL]:
        later = [column for column in LATER if column != "poor6m"]
        _write_table(data / f"hospital_{number}.csv", of[number], leave_out=later)


def _stroke_patients(source: Path) -> dict[int, list[dict]]:
    found: dict[int, list[dict]] = {}
    for row in csv.DictReader(_lines(source, "ist_stroke.csv.gz")):
        found.setdefault(int(row["HOSPNUM"]), []).append(row)
    return found


TILE = 32
MICROSCOPES = {"plain": (1.0, 1.0, 0.0), "dim": (0.5, 1.0, 0.0), "hazy": (1.0, 0.6, 0.0),
               "noisy": (1.0, 1.0, 8.0)}  # fmt: skip
"""Gain, exponent and noise, by which a quarter of the picture is changed."""


def nuclei(source: Path, data: Path) -> None:
    """A quarter of one micrograph for each of four microscopes, in tiles."""
    from PIL import Image

    random = np.random.default_rng(0)
    picture, mask = (np.array(Image.open(_there(source, f"{n}2d.tif"))) for n in ("img", "mask"))
    half = len(picture) // 2
    quarters = [(slice(a, a + half), slice(b, b + half)) for a in (0, half) for b in (0, half)]
    for (name, (gain, exponent, noise)), quarter in zip(MICROSCOPES.items(), quarters, strict=True):
        seen = 255 * gain * (picture[quarter] / 255) ** exponent
        seen = np.clip(seen + random.normal(0, noise, seen.shape), 0, 255)
        tiles = {"image": _tiles(seen.round().astype(np.uint8)), "mask": _tiles(mask[quarter] > 0)}
        np.savez_compressed(data / f"{name}.npz", **tiles)


def _tiles(image: np.ndarray) -> np.ndarray:
    """[tiles, TILE, TILE], line by line."""
    count = len(image) // TILE
    cut = image.reshape(count, TILE, count, TILE).swapaxes(1, 2)
    return cut.reshape(count * count, TILE, TILE)


KINDS_AT = 5 * [("movement", "turning")] + 2 * [("movement",)] + 2 * [("turning",)]
"""What the phones of each site measure; those of one more, which only looks, measure both."""


def sensors(source: Path, data: Path) -> None:
    """A file for each site of three people, of what its phones measure: the accelerometer's samples
    in g, and what is computed of the gyroscope's. The visitor's rows are all for the test."""
    windows, features = opened(source, "har_windows.npz"), opened(source, "har_features.npz")
    subject, experiment = windows["subject"], windows["experiment"]
    second = np.array([experiment[subject == s].max() for s in range(1, 31)])
    turns = [
        name.startswith(("gx_", "gy_", "gz_", "gmag_", "corr_g")) for name in features["names"]
    ]
    given = {
        "movement": (windows["X"][:, :3] * windows["scale"][:3, None]).astype(np.float16),
        "turning": features["X"][:, turns],
    }
    for site, kinds in enumerate([*KINDS_AT, ("movement", "turning")]):
        own = (subject - 1) % (len(KINDS_AT) + 1) == site
        is_visitor = site == len(KINDS_AT)
        columns = {kind: given[kind][own] for kind in kinds} | {"y": windows["y"][own]}
        columns["is_test"] = (experiment == second[subject - 1])[own] | is_visitor
        name = "visitor" if is_visitor else f"site{site + 1}-{'-'.join(kinds)}"
        np.savez_compressed(data / f"{name}.npz", **columns)


RECIPES: dict[str, Callable[[Path, Path], None]] = {
    "leukaemia": leukaemia, "survival": survival, "solubility": solubility, "qsar": qsar,
    "proteins": proteins, "xray": xray, "recovery": recovery, "nuclei": nuclei,
    "wearables": people, "sensors": sensors, "stroke/small": small_hospitals,
}  # fmt: skip


def _there(source: Path, name: str) -> Path:
    if not (source / name).exists():
        raise SystemExit(f"{source / name} is not there: the recipe's README says where it is from")
    return source / name


def _lines(source: Path, name: str) -> list[str]:
    return gzip.decompress(_there(source, name).read_bytes()).decode().splitlines()


def _write_table(path: Path, rows: list[dict], leave_out: Sequence[str]) -> None:
    columns = [name for name in rows[0] if name not in leave_out]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def opened(source: Path, name: str):
    """A public file. Ends with a sentence if it is not there."""
    return np.load(_there(source, name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="public data")
    given = parser.parse_args()
    data = HERE / given.recipe
    data = data / "data" if (data / "plan.py").exists() else data
    data.mkdir(exist_ok=True)
    RECIPES[given.recipe](given.source, data)
    print(f"{data}: {', '.join(sorted(f.name for f in data.iterdir()))}")


if __name__ == "__main__":
    main()
