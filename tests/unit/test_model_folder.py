"""A model's folder: whole or not at all, opened only if it is what its card says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from swarm.errors import ConfigurationError
from swarm.learning.code.bundle import Bundle
from swarm.learning.models.card import Card, CardSite, Score, Scores, describe_plan, write_markdown
from swarm.learning.models.model_folder import ModelFolder, read_folder, write_card, write_folder
from swarm.tensors import Layout, TensorSpec, create_file
from swarm.types import to_hex

CODE = Bundle({"plan.py": b'"""Tells one from two.\n\nAnd more."""\n', "more/words.py": b"A = 1\n"})


def make_folder(path: Path, *, force: bool = False, round: int = 3) -> ModelFolder:
    sums, model = path.parent / "sums", path.parent / "whole"
    for file, dtype in ((sums, "F64"), (model, "F32")):
        file.unlink(missing_ok=True)
        specs = [TensorSpec(n, dtype, (2, 3)) for n in "ab"]  # type: ignore[arg-type]
        with create_file(file, Layout.from_specs(specs)) as tensors:
            tensors["a"][...] = np.arange(6).reshape(2, 3)
    card = Card(
        name="Two", about=describe_plan(CODE), plan=to_hex(CODE.digest), round=round, rounds=9
    )
    return write_folder(path, model, sums, CODE, card, force)


def test_a_folder_is_read_as_it_was_written_and_its_tensors_open_with_any_library(
    tmp_path: Path,
) -> None:
    made = make_folder(tmp_path / "model")
    found = read_folder(tmp_path / "model")
    assert found == made
    assert found.card.about == "Tells one from two."
    tensors = safetensors.numpy.load_file(found.model)
    assert tensors["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    with safetensors.safe_open(found.model, "numpy") as file:
        assert file.metadata() == {
            "format": "pt", "plan": to_hex(CODE.digest), "model": "", "round": "3"
        }  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} == {"model", "sums", "whole"}


@pytest.mark.parametrize("name", ["model.safetensors", "statistics.safetensors", "plan/plan.py"])
def test_a_file_that_was_changed_or_lost_is_refused_by_name(tmp_path: Path, name: str) -> None:
    file = make_folder(tmp_path / "model").path / name
    content = file.read_bytes()
    file.write_bytes(content[:-2] + b"!\n")
    with pytest.raises(ConfigurationError, match=rf"{name.partition('/')[0]} was changed"):
        read_folder(tmp_path / "model")
    file.unlink()
    with pytest.raises(ConfigurationError, match=name.partition("/")[0]):
        read_folder(tmp_path / "model")


def test_a_card_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    made = make_folder(tmp_path / "model")
    outside = made.card.files | {"../whole": "0x00"}
    write_card(made.path, msgspec.structs.replace(made.card, files=outside))
    with pytest.raises(ConfigurationError, match="other files than a model has"):
        read_folder(made.path)


def test_a_folder_is_replaced_by_force_alone_and_nothing_but_a_models_ever(tmp_path: Path) -> None:
    make_folder(tmp_path / "model")
    with pytest.raises(ConfigurationError, match="--force"):
        make_folder(tmp_path / "model", round=4)
    assert read_folder(tmp_path / "model").card.round == 3
    make_folder(tmp_path / "model", round=4, force=True)
    assert read_folder(tmp_path / "model").card.round == 4
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "last.tex").write_text("years")
    with pytest.raises(ConfigurationError, match="no model's folder"):
        make_folder(tmp_path / "thesis", force=True)
    assert (tmp_path / "thesis" / "last.tex").exists()


def test_the_card_for_people_shows_scores_with_intervals_and_no_markdown_of_others() -> None:
    card = Card(
        name="A|B <b>",
        plan="0x01",
        round=1,
        rounds=1,
        sites=(CardSite("St. *Mary*\n# loud", 12, True),),
        scores=(Scores("test rows", {"auc": Score(0.9, 0.85, 0.95), "f1": Score(None)}),),
    )
    told = write_markdown(card)
    assert "| auc | 0.9 (0.85 to 0.95) |" in told
    assert "| f1 | – |" in told
    assert "St. \\*Mary\\* \\# loud" in told
    assert "A\\|B \\<b\\>" in told
