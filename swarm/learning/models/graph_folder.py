"""A model as a folder for other programs: one file that runs without the plan's code, and what must
be known to use it.

    model.onnx or model.pt2    the module and the plan's `predict`, on rows that are prepared
    README.md                  what it takes and gives, and what is not in it
    card.md                    the model's own card
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from swarm.errors import ConfigurationError
from swarm.learning.models.boxed_model import make_graph_file
from swarm.learning.models.card import plain, table
from swarm.learning.models.model_folder import CARD_FOR_PEOPLE, ModelFolder
from swarm.learning.supervisor.trainer_messages import GraphFormat, GraphMade, Tensor

GRAPH_FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
README = "README.md"
PROGRAMS = {
    "onnx": """\
import onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
session.run(None, {inputs})""",
    "torch": """\
import torch
module = torch.export.load("model.pt2").module()
module({inputs})""",
}


def write_graph_folder(model: ModelFolder, rows: Path, to: GraphFormat, folder: Path) -> GraphMade:
    """Make the folder. It appears whole or not at all.

    Raises ConfigurationError if there is something at `folder`, PlanError as `make_graph_file`.
    """
    if folder.exists() or folder.is_symlink():
        raise ConfigurationError(f"{folder} exists: name a new folder")
    if not folder.absolute().parent.is_dir():
        raise ConfigurationError(f"{folder.parent} is no directory: make it first")
    partial = Path(tempfile.mkdtemp(".partial", f".{folder.name}.", folder.absolute().parent))
    try:
        file = partial / GRAPH_FILES[to]
        made = make_graph_file(model, rows, to, file)
        file.chmod(0o644)
        (partial / README).write_text(_readme(model, to, made), "utf-8", "backslashreplace")
        shutil.copyfile(model.path / CARD_FOR_PEOPLE, partial / CARD_FOR_PEOPLE)
        partial.chmod(0o755)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return made


def _readme(model: ModelFolder, to: GraphFormat, made: GraphMade) -> str:
    card, file = model.card, GRAPH_FILES[to]
    names = [tensor.name for tensor in made.inputs]
    given = ", ".join(names if to == "torch" else [f"{name!r}: …" for name in names])
    program = PROGRAMS[to].replace("{inputs}", given if to == "torch" else "{" + given + "}")
    sums = (
        "the members' sums in `statistics.safetensors` of the model's folder are used there"
        if card.statistics or model.statistics is not None
        else "no sums of members are used there"
    )
    parts = [
        f"# {plain(card.name)}, as {file}",
        f"`{file}` holds the module and the plan's `predict`: of rows that are prepared it gives "
        "what `swarm predict` gives. It takes any number of rows.",
        table(("takes", "type", "shape"), [_row(each) for each in made.inputs]),
        table(("gives", "type", "shape"), [_row(each) for each in made.outputs]),
        f"```python\n{program}\n```",
        f"On {made.rows} rows its numbers were within {made.difference:.2g} of plain torch's, "
        "relative to the larger of 1 and the number itself. Both are float32, added up in "
        "different orders.",
        "## What is not in it",
        "How a table becomes these inputs: reading it, and the plan's `inputs` and `prepare` "
        f"(`plan/plan.py` in the model's folder); {sums}. In Python, "
        '`swarm.load("FOLDER").prepared(rows)` gives them. Nor does it look for columns in another '
        "unit or for unknown codes, as `swarm predict` does.",
        "## Where it comes from",
        table(
            ("", ""),
            [
                ("plan", f"`{card.plan}`"),
                ("model", f"`{card.model}`" if card.model else "made without a network"),
                ("of", f"`model.safetensors`, `{card.files['model.safetensors']}`"),
                ("round", f"{card.round} of {card.rounds}"),
                ("licence", plain(card.licence) or "not stated: ask the members"),
            ],
        ),
        f"More is in `{CARD_FOR_PEOPLE}`, the card of the folder that it was made from.",
    ]
    return "\n\n".join(parts) + "\n"


def _row(tensor: Tensor) -> tuple[str, str, str]:
    shape = ", ".join(["rows", *map(str, tensor.shape)])
    return plain(tensor.name), tensor.dtype, f"[{shape}]".replace("[", "\\[")
