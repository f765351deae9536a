"""Masked rounds at a node: words and sums of files, and what of its secrets is kept and erased."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from swarm.errors import LocalError, PlanError
from swarm.privacy.canaries import CHUNK_WORDS
from swarm.privacy.derivation import public_key
from swarm.privacy.fixed_point import weights
from swarm.privacy.masks import Masks, RandomWords
from swarm.protocol.program import Stage, federated_averaging
from swarm.protocol.state import STATISTICS_SLOT
from swarm.rounds.masked_secrets import MaskedSecrets
from swarm.rounds.masked_sums import Sums, grid_of, read_mapped
from swarm.tensors import Layout, TensorFile, TensorSpec, create_file, open_file
from swarm.types import Digest, PlanId

PLAN, BASE, OTHER = PlanId(3), Digest(b"b" * 32), Digest(b"o" * 32)
SEED = bytes(range(32))
LAYOUT = Layout.from_specs([TensorSpec("w", "F32", (3, 5)), TensorSpec("b", "F32", (5,))])
FIGURES = Layout.from_specs([TensorSpec("count", "F64", ()), TensorSpec("sums", "F64", (4,))])
TRAINING = Stage("training", "train", "mean", 1, clip=4.0)
STATISTICS = Stage("statistics", "statistics", "sum", 1, STATISTICS_SLOT, clip=1e9)


def counted() -> Callable[[int], bytes]:
    """Entropy for tests: each call gives other bytes."""
    drawn = iter(range(1, 10**6))
    return lambda size: RandomWords(next(drawn).to_bytes(32, "big"))(size).tobytes()[:size]


def tensors(rng: np.random.Generator, layout: Layout, scale: float = 1.0) -> dict[str, np.ndarray]:
    return {
        spec.name: (scale * rng.standard_normal(spec.shape)).astype(
            np.float32 if spec.dtype == "F32" else np.float64
        )
        for spec in layout.specs
    }


def written(folder: Path, name: str, layout: Layout, values: Mapping[str, Any]) -> TensorFile:
    with create_file(folder / name, layout) as file:
        for tensor, value in values.items():
            file[tensor][...] = value
    return open_file(folder / name)


def masked_files(
    folder: Path, sums: Sums, updates: list[dict[str, np.ndarray]], shares: list[float]
) -> list[Path]:
    """What the sites post: each pair's mask is added here, and taken away there."""
    files = []
    for me, (update, share) in enumerate(zip(updates, shares, strict=True)):
        written(folder, f"x{me}", sums.layout, update)
        _, read = read_mapped(folder / f"x{me}")
        pairs = [
            (bytes(sorted((me, other))) * 16, 1 if me < other else -1)
            for other in range(len(updates))
            if other != me
        ]
        files.append(folder / f"y{me}")
        sums.mask(read, share, RandomWords(bytes([me]) * 32), Masks(pairs), files[-1])  # type: ignore[arg-type]
    return files


NONE = Masks([])


def test_a_masked_mean_is_the_plain_one_to_a_billionth(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    base = tensors(rng, LAYOUT)
    moves = [tensors(rng, LAYOUT, 0.1) for _ in range(4)]
    updates = [{name: base[name] + move[name] for name in base} for move in moves]
    samples = [172, 166, 69, 113]
    sums = Sums(grid_of(TRAINING, 4), LAYOUT, written(tmp_path, "base", LAYOUT, base), 4)
    files = masked_files(tmp_path, sums, updates, weights(samples))
    assert sums.open(files, NONE, 1.0, 4, tmp_path / "model")
    made = open_file(tmp_path / "model")
    for name in base:
        mean = np.average([u[name].astype(np.float64) for u in updates], 0, samples)
        assert np.abs(made[name] - mean).max() < 5e-7  # float32 rounds more than the grid does
    _, read = read_mapped(tmp_path / "x0")
    sums.mask(read, weights(samples)[0], RandomWords(bytes(32)), NONE, tmp_path / "clear")
    one, clear = (open_file(file)["words"] for file in (files[0], tmp_path / "clear"))
    assert np.mean(one == clear) < 0.1


def test_all_members_recompute_the_same_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    base, updates = tensors(rng, LAYOUT), [tensors(rng, LAYOUT) for _ in range(3)]
    sums = Sums(grid_of(TRAINING, 3), LAYOUT, written(tmp_path, "base", LAYOUT, base), 3)
    files = masked_files(tmp_path, sums, updates, weights([5, 6, 7]))
    assert sums.digest(files) == sums.digest(files[::-1]) != sums.digest(files[:2])
    assert sums.open(files, NONE, 1.0, 3, tmp_path / "a")
    assert sums.open(files[::-1], NONE, 1.0, 3, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_masked_counts_are_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    sites = [{"count": np.float64(n), "sums": rng.integers(0, 10**8, 4) * 1.0} for n in (7, 40)]
    sums = Sums(grid_of(STATISTICS, 2), FIGURES, None, 2)
    files = masked_files(tmp_path, sums, sites, [1.0, 1.0])
    for number in range(2):
        sums.check(read_mapped(tmp_path / f"x{number}")[1])
    assert sums.open(files, NONE, 1.0, 2, tmp_path / "figures")
    made = open_file(tmp_path / "figures")
    assert made["count"] == 47
    np.testing.assert_array_equal(made["sums"], sites[0]["sums"] + sites[1]["sums"])


def test_a_sum_with_a_mask_left_in_it_is_spoiled_and_makes_no_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    base, updates = tensors(rng, LAYOUT), [tensors(rng, LAYOUT) for _ in range(3)]
    sums = Sums(grid_of(TRAINING, 3), LAYOUT, written(tmp_path, "base", LAYOUT, base), 3)
    files = masked_files(tmp_path, sums, updates, weights([1, 1, 1]))
    assert not sums.open(files[:2], NONE, 2 / 3, 2, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_sum_beyond_what_honest_sites_can_make_is_spoiled(tmp_path: Path) -> None:
    sums = Sums(grid_of(TRAINING, 3), LAYOUT, written(tmp_path, "base", LAYOUT, {}), 3)
    far = {spec.name: np.full(spec.shape, 9.0, np.float32) for spec in LAYOUT.specs}
    at_the_bound = masked_files(tmp_path, sums, [far] * 3, weights([1, 1, 1]))
    assert sums.open(at_the_bound, NONE, 1.0, 3, tmp_path / "model")
    assert np.abs(open_file(tmp_path / "model")["w"] - 4.0).max() < 1e-6  # cut off
    assert not sums.open(at_the_bound, NONE, 0.9, 3, tmp_path / "other")


def test_a_sum_of_several_chunks_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    size = 2 * CHUNK_WORDS + 5
    layout = Layout.from_specs([TensorSpec("a", "F32", (size - 3,)), TensorSpec("b", "F32", (3,))])
    rng = np.random.default_rng(6)
    base = tensors(rng, layout)
    updates = [{name: base[name] + np.float32(n) for name in base} for n in (1, 2, 3)]
    sums = Sums(grid_of(TRAINING, 3), layout, written(tmp_path, "base", layout, base), 3)
    files = masked_files(tmp_path, sums, updates, weights([1, 1, 1]))
    assert sums.open(files, NONE, 1.0, 3, tmp_path / "model")
    made = open_file(tmp_path / "model")
    assert max(np.abs(made[name] - base[name] - 2.0).max() for name in base) < 1e-6
    last = open_file(files[1])["words"][-1]
    with files[1].open("r+b") as file:  # the last zero word
        file.seek(-4, 2)
        file.write((int(last) ^ 1).to_bytes(4, "little", signed=True))
    assert not sums.open(files, NONE, 1.0, 3, tmp_path / "spoiled")


def test_elements_of_several_types_keep_their_order(tmp_path: Path) -> None:
    layout = Layout.from_specs(
        [TensorSpec("n", "I64", (2,)), TensorSpec("s", "F64", (3,)), TensorSpec("t", "F32", (2,))]
    )
    site = {"n": np.array([3, 4]), "s": np.array([0.5, 1.0, 2.0]), "t": np.array([7, 8], "f4")}
    sums = Sums(grid_of(STATISTICS, 2), layout, None, 2)
    files = masked_files(tmp_path, sums, [site, site], [1.0, 1.0])
    assert sums.open(files, NONE, 1.0, 2, tmp_path / "figures")
    made = open_file(tmp_path / "figures")
    for name, value in site.items():
        np.testing.assert_array_equal(made[name], 2 * value)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (2e9, r"2e\+09, beyond the plan's `statistics_bound` of 1e\+09"),
        (np.nan, "tensor 'sums' of the update has a number that is not finite"),
    ],
)
def test_what_cannot_be_masked_is_refused_before_it_is_kept(
    tmp_path: Path, bad: float, said: str
) -> None:
    sums = Sums(grid_of(STATISTICS, 2), FIGURES, None, 2)
    written(tmp_path, "x", FIGURES, {"count": 1, "sums": [0, 0, 0, bad]})
    with pytest.raises(PlanError, match=said):
        sums.check(read_mapped(tmp_path / "x")[1])


def test_a_program_is_masked_if_all_its_stages_are() -> None:
    assert not federated_averaging(3).is_masked


# Secrets.


def secrets_in(folder: Path, secret: bytes = SEED) -> MaskedSecrets:
    return MaskedSecrets(folder, secret, counted())


def test_receiving_keys_last_over_a_restart_until_they_are_over(tmp_path: Path) -> None:
    one = secrets_in(tmp_path)
    public = one.new_receiving_key(PLAN)
    again = secrets_in(tmp_path)
    secret = again.receiving_secret(PLAN, public)
    assert secret is not None
    assert public_key(secret) == public
    again.keep_only(PLAN, None, 1, [public])
    assert again.receiving_secret(PLAN, public) == secret
    again.keep_only(PLAN, None, 1, [])
    assert again.receiving_secret(PLAN, public) is None


def test_a_receiving_key_that_the_chain_has_not_seen_yet_stays(tmp_path: Path) -> None:
    one = secrets_in(tmp_path)
    public = one.new_receiving_key(PLAN)
    one.keep_only(PLAN, None, 1, [])
    assert one.receiving_secret(PLAN, public) is not None
    one.keep_only(PLAN, None, 1, [public])
    one.keep_only(PLAN, None, 1, [])
    assert one.receiving_secret(PLAN, public) is None


def test_only_the_running_attempt_and_updates_of_rounds_to_come_are_kept(tmp_path: Path) -> None:
    one = secrets_in(tmp_path)
    for attempt in (1, 2):
        one.attempt(PLAN, 4, attempt).put("keys", bytes([attempt]))
    for number in (3, 4):
        one.update(PLAN, number, BASE).put("update", bytes([number]))
    one.attempt(PlanId(9), 4, 1).put("keys", b"another plan's")
    one.keep_only(PLAN, (4, 2), 4, [])
    assert one.attempt(PLAN, 4, 1).get("keys") is None
    assert one.attempt(PLAN, 4, 2).get("keys") == b"\2"
    assert one.update(PLAN, 3, BASE).get("update") is None
    assert one.update(PLAN, 4, BASE).get("update") == b"\4"
    assert one.attempt(PlanId(9), 4, 1).get("keys") == b"another plan's"


def test_a_second_set_is_never_opened_over_one_base_not_even_after_all_is_erased(
    tmp_path: Path,
) -> None:
    one = secrets_in(tmp_path)
    assert one.may_open(BASE, 0, 0b111, None)
    one.keep_only(PLAN, None, 99, [])
    again = secrets_in(tmp_path)
    assert again.may_open(BASE, 0, 0b111, None)
    assert not again.may_open(BASE, 0, 0b110, None)
    assert again.may_open(BASE, 1, 0b110, None)
    assert again.may_open(OTHER, 0, 0b110, None)
    assert again.may_open(BASE, 0, 0b110, PLAN)
    assert not again.may_open(BASE, 0, 0b111, PLAN)


def test_nothing_that_is_kept_lies_in_clear_on_the_disk(tmp_path: Path) -> None:
    planted = b"a planted secret of this site"
    one = secrets_in(tmp_path)
    one.attempt(PLAN, 1, 1).put("secret", planted)
    one.update(PLAN, 1, BASE).put("update", planted)
    assert not any(planted in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    with pytest.raises(LocalError, match="cannot be opened with this node key"):
        secrets_in(tmp_path, b"x" * 32).attempt(PLAN, 1, 1).get("secret")


def test_two_tasks_never_both_begin_a_vault(tmp_path: Path) -> None:
    one = secrets_in(tmp_path)

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            for entry in ("a", "b", "c", "d"):
                vault = one.attempt(PLAN, 1, 1)
                nursery.start_soon(one.in_turn, vault.put, entry, entry.encode())

    trio.run(scenario)
    kept = secrets_in(tmp_path).attempt(PLAN, 1, 1)
    assert [kept.get(entry) for entry in "abcd"] == [b"a", b"b", b"c", b"d"]
