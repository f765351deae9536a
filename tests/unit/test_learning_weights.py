"""What a plan begins from: the values of a file, if they fit its model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swarm.errors import ConfigurationError, PlanError
from swarm.learning.parameters.foreign_weights import read_weights, with_values_of
from swarm.learning.parameters.named_tensors import State
from swarm.tensors import OpenFile

MODEL: State = {"a": torch.zeros(2), "n": torch.zeros(3, dtype=torch.int64)}
BASE: State = {"n": torch.ones(3, dtype=torch.int64), "a": torch.ones(2)}


def test_a_model_takes_the_values_of_its_base() -> None:
    found = with_values_of(MODEL, BASE, "base")
    assert list(found) == list(MODEL)
    assert all(torch.equal(found[name], BASE[name]) for name in MODEL)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ({"a": BASE["a"]}, "has no tensor 'n', which the plan's model has"),
        (BASE | {"b": torch.ones(1)}, "has the tensor 'b', which the plan's model has not"),
        (BASE | {"a": torch.ones(3)}, r"has 'a' as torch.float32 \[3\], .* torch.float32 \[2\]"),
        (BASE | {"a": torch.ones(2).half()}, r"has 'a' as torch.float16"),
        (BASE | {"a": torch.tensor([1, torch.nan])}, "has NaN or infinite values in 'a'"),
    ],
)
def test_a_base_that_does_not_fit_is_refused_by_the_name_of_a_tensor(
    base: State, words: str
) -> None:
    with pytest.raises(PlanError, match=f"^the plan cannot begin from base: it {words}"):
        with_values_of(MODEL, base, "base")


def test_a_base_is_a_safetensors_file_of_any_program(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(BASE, file)
    with file.open("rb") as opened:
        opened.seek(9)
        found = read_weights(OpenFile(opened.fileno(), str(file)))
        os.fstat(opened.fileno())  # it is still open: whoever opened it closes it
    assert all(torch.equal(found[name], BASE[name]) for name in BASE)
    file.write_bytes(b"nothing of the kind")
    with file.open("rb") as opened, pytest.raises(ConfigurationError, match="safetensors: "):
        read_weights(OpenFile(opened.fileno(), str(file)))
