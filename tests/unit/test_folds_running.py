"""A running mean is, bit for bit, the mean of all updates at once."""

from __future__ import annotations

import numpy as np
import pytest

from swarm.errors import BlobError
from swarm.learning.folds.reduce import MEAN, SUM
from swarm.learning.folds.running import RunningMean
from swarm.tensors import NUMPY_DTYPES, DType, Layout, TensorFile, TensorSpec

DTYPES: tuple[DType, ...] = ("F64", "F32", "F16", "BF16", "I64", "I8", "BOOL")


def files(layout: Layout, count: int) -> list[TensorFile]:
    generator = np.random.default_rng(5)
    made = []
    for _ in range(count):
        file = TensorFile(layout, np.zeros(layout.file_bytes, np.uint8))
        for spec in layout.specs:
            values = generator.normal(size=spec.shape) * 10.0 ** generator.integers(-3, 3)
            if spec.dtype == "BF16":
                file[spec.name][...] = values.astype(np.float32).view(np.uint32) >> 16
            elif spec.dtype == "BOOL":
                file[spec.name][...] = values > 0
            else:
                file[spec.name][...] = values.astype(NUMPY_DTYPES[spec.dtype])
        file[layout.specs[0].name].reshape(-1)[0] = -0.0
        made.append(file)
    return made


@pytest.mark.parametrize("count", [1, 2, 37])
def test_a_running_mean_has_the_bits_of_the_mean_of_all(count: int) -> None:
    layout = Layout.from_specs([TensorSpec(d.lower(), d, (3, 7)) for d in DTYPES])
    given = files(layout, count)
    weights = [3 + 11 * i % 17 for i in range(count)]
    running = RunningMean(layout)
    for file, weight in zip(given, weights, strict=True):
        running.add(file.raw, weight)
    found = TensorFile(layout, running.finish())
    for spec in layout.specs:
        inputs = [file[spec.name].reshape(-1) for file in given]
        out = np.empty_like(inputs[0])
        MEAN.merge(spec.dtype, inputs, weights, out)
        assert found[spec.name].tobytes() == out.tobytes(), spec.dtype
    assert Layout.parse(found.raw[: layout.data_start].tobytes(), len(found.raw)) == layout


def test_a_running_sum_has_the_bits_of_the_sum_of_all() -> None:
    layout = Layout.from_specs([TensorSpec("sums", "F64", (40,))])
    given = files(layout, 9)
    running = RunningMean(layout, is_sum=True)
    for file in given:
        running.add(file.raw)
    out = np.empty(40)
    SUM.merge("F64", [file["sums"] for file in given], [1] * 9, out)
    assert TensorFile(layout, running.finish())["sums"].tobytes() == out.tobytes()


def test_what_is_not_finite_is_refused_and_so_is_nothing_at_all() -> None:
    layout = Layout.from_specs([TensorSpec("w", "F32", (2,))])
    running = RunningMean(layout)
    with pytest.raises(BlobError, match="nothing to merge"):
        running.finish()
    (file,) = files(layout, 1)
    running.add(file.raw, 2)
    file["w"][1] = np.nan
    with pytest.raises(BlobError, match="contributor 1"):
        running.add(file.raw, 2)
    file["w"][:] = 3e38
    running.add(file.raw, 2)
    assert np.isfinite(TensorFile(layout, running.finish())["w"]).all()
