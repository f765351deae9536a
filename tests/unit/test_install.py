"""The tool that installs swarm anew: what it reads of the runs that it starts."""

from __future__ import annotations

import pytest
from harness.install import Failed, model_of


def test_the_model_of_a_run_is_the_digest_that_it_prints() -> None:
    assert model_of(["3 rounds in 8 s", "model   /tmp/m  (safetensors)", "digest  0xab"]) == "0xab"


def test_a_run_without_a_model_has_failed() -> None:
    with pytest.raises(Failed, match="names no model"):
        model_of(["3 rounds in 8 s", "the digest of nothing"])
