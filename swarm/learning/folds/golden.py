"""Golden folds: does this machine fold fixed updates to the bits that all others get?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
from blake3 import blake3

from swarm.errors import LocalError
from swarm.learning.folds.gram import Elements, Gram, find_gram
from swarm.learning.folds.reduce import (
    MEAN,
    SUM,
    ByDistance,
    GeometricMedian,
    Krum,
    Maximum,
    Median,
    MultiKrum,
    Reduce,
    Trimmed,
)
from swarm.learning.folds.step import Adam, Momentum, Nesterov, Step, Yogi, state_dtype
from swarm.learning.folds.vectors import GOLDEN_WEIGHTS, golden_input, golden_inputs
from swarm.tensors import NUMPY_DTYPES, DType

REDUCED: tuple[Reduce, ...] = (
    *(MEAN, SUM, Maximum(), Median(), Trimmed(0.2)),
    *(Krum(1), MultiKrum(1, 2), GeometricMedian(4)),
)
STEPPED: tuple[Step, ...] = (Momentum(0.5, 0.9), Nesterov(), Adam(), Yogi())
_STEPS_TAKEN = 3
FLOAT_TYPES: tuple[DType, ...] = ("F64", "F32", "F16", "BF16")

GOLDEN: Mapping[str, str] = {
    "mean": "d6adeeb043a361f5f640d8f7bc7c35497901d823440a74cebe4e79d7db5dbf40",
    "sum": "31cf663a6b313578aa2758e0463ccb524293182cddd45df92810c38270a2439b",
    "maximum": "b11cd7435102e891d8bc65ef191f599ac9084aac74cca3c3e751cbce3a56d96d",
    "median": "6711f040b9a360690e40400f897482ed2f9e82a808a9e202c0d791e2ace61adf",
    "trimmed": "004cd9b4beb5c1a25bb741811baa9c671758200542ea2d4a4f05b71f1c3d1105",
    "krum": "11214c1f4f6e006cd101527d00c3e6942d2c11e743c531438f374a61aa25ba94",
    "multi_krum": "a93aa8483c9ca15ea367d8a0b804be7bc1465d6e2b807f31f06e5401851d56e4",
    "geometric_median": "89b73204cf16752584f621bb30dad2e9bab36e02d40aae0180ff8442b45accbc",
    "momentum": "c2b3c20dc8b6935628b35b6d1b282039160d5d94348c2412381994e6a7c347f8",
    "nesterov": "9ec876e8d47bcc2eb90e367dc80786fd85113d94fd3ab8a354e0607f0f65d27e",
    "adam": "8fd0097409ed18deb24dbf145fe874396794e60ee8ab36fec75413e3c84c57eb",
    "yogi": "2b4d7a36961ffa0696fdf3b0826cedee6a94faa40867507aabfe4ac53b0ae09c",
}


def self_check() -> None:
    """Compare this thread's arithmetic with the golden folds, subnormal numbers among them.

    Rounding mode and flush-to-zero belong to a thread and are inherited by those it starts; some
    libraries change them when loaded. Raises LocalError if a merge here would differ from others'.
    """
    subnormals = np.array([5e-324, -5e-324]), np.array([1e-45, -1e-45], np.float32)
    if not all((values * values.dtype.type(1)).all() for values in subnormals):
        raise LocalError(
            "this machine's arithmetic flushes subnormal numbers to zero, so its merges would "
            "differ from the others'; a library loaded into this process has set flush-to-zero"
        )
    for name, found in golden_digests().items():
        if found != GOLDEN[name]:
            raise LocalError(
                f"this machine's arithmetic differs: the golden {name} gave {found}, not "
                f"{GOLDEN[name]}; its merges would differ from the others' (an unusual numpy build "
                "or floating-point mode?)"
            )


def golden_digests() -> dict[str, str]:
    """The digest of each fold's results for fixed inputs of every type."""
    hashers = {part.name: blake3() for part in (*REDUCED, *STEPPED)}
    for name in NUMPY_DTYPES:
        dtype = cast(DType, name)
        for rule in REDUCED:
            if not isinstance(rule, ByDistance):
                hashers[rule.name].update(_reduced(rule, dtype))
    for dtype in FLOAT_TYPES:
        elements = Elements(dtype, golden_input(dtype, 5), golden_inputs(dtype))
        gram = find_gram(lambda e=elements: [e])  # type: ignore[misc]
        for rule in REDUCED:
            if isinstance(rule, ByDistance):
                hashers[rule.name].update(_chosen(rule, dtype, gram))
        for step in STEPPED:
            hashers[step.name].update(_stepped(step, dtype))
    return {name: hasher.hexdigest() for name, hasher in hashers.items()}


def _reduced(rule: Reduce, dtype: DType) -> bytes:
    """Of five contributors and of four, the last with ties; means and sums of three."""
    inputs = golden_inputs(dtype)
    chosen = [inputs[:3]] if rule in (MEAN, SUM) else [inputs, inputs[1:]]
    found = b""
    for some in chosen:
        out = np.empty_like(inputs[0])
        rule.merge(dtype, some, GOLDEN_WEIGHTS[: len(some)], out)
        found += out.tobytes()
    return found


def _chosen(rule: ByDistance, dtype: DType, gram: Gram) -> bytes:
    """The weights of five contributors, and their mean."""
    inputs, weights = golden_inputs(dtype), rule.weigh(gram)
    out = np.empty_like(inputs[0])
    rule.merge(dtype, inputs, weights, out)
    return b"".join(weight.to_bytes(8, "big") for weight in weights) + out.tobytes()


def _stepped(step: Step, dtype: DType) -> bytes:
    """Three steps from one model towards others."""
    inputs = golden_inputs(dtype)
    model = inputs[0]
    state = [np.zeros(len(model), NUMPY_DTYPES[state_dtype(dtype) or dtype]) for _ in step.slots]
    for taken in range(_STEPS_TAKEN):
        out, after = np.empty_like(model), [np.empty_like(slot) for slot in state]
        step.advance(dtype, model, inputs[-1 - taken], state, taken, out, after)
        model, state = out, after
    return b"".join(array.tobytes() for array in (model, *state))
