"""Models as ONNX and as torch.export files: the numbers of plain torch, without code or rows."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

import swarm
from swarm.errors import PlanError
from swarm.learning.data.tables import as_table
from swarm.learning.parameters.named_tensors import State, state_of
from swarm.learning.plans.loading import load_plan
from swarm.learning.supervisor.trainer_messages import GraphFormat
from swarm.learning.training.graph import Graph, make_graph
from swarm.learning.training.loop import LocalTraining

FORMATS: tuple[GraphFormat, ...] = ("onnx", "torch")
HEART = Path(__file__).parents[2] / "examples" / "heart"
PLAN = """
import torch
from torch import nn
import swarm

class Layer(nn.Module):
    def forward(self, x):
        {layer}

class Small(swarm.Plan):
    def model(self):
        return nn.Sequential(nn.Linear(2, 4), Layer(), nn.Linear(4, 2))

    def inputs(self, table):
        {inputs}

    def data(self, site):
        return swarm.Data(self.inputs(self.table(site.path)))

    def loss(self, model, batch):
        return model(batch).mean()

    def predict(self, model, x):
        {predict}
"""
ROWS = {"a": [f"{v:.3f}" for v in np.linspace(-1, 1, 9)], "b": ["0.5"] * 9}


def small(
    folder: Path,
    layer: str = "return x.relu()",
    inputs: str = 'return table.numbers("a", "b")',
    predict: str = "return model(x)",
) -> LocalTraining:
    """A site of a small plan with these lines in it."""
    folder.mkdir(exist_ok=True)
    code = PLAN.format(layer=layer, inputs=inputs, predict=predict)
    (folder / "plan.py").write_text(code)
    return LocalTraining(load_plan(folder), swarm.Site("here"), folder, device="cpu")


def graph_of(site: LocalTraining, to: GraphFormat) -> Graph:
    return make_graph(site, copied(site), None, as_table(ROWS), to)


def copied(site: LocalTraining) -> State:
    return {name: value.clone() for name, value in state_of(site.model).items()}


def run(graph: Graph, to: GraphFormat, *given: torch.Tensor) -> list[NDArray[Any]]:
    """What another program computes of it."""
    if to == "torch":
        module = torch.export.load(io.BytesIO(graph.content)).module()
        return [value.detach().numpy() for value in module(*given)]
    session = onnxruntime.InferenceSession(graph.content)
    assert [each.name for each in session.get_outputs()] == list(graph.outputs)
    named = zip(graph.inputs, given, strict=True)
    return list(session.run(None, {name: value.numpy() for name, value in named}))


@pytest.mark.parametrize("to", FORMATS)
def test_the_graph_gives_the_numbers_of_the_plans_own_predict(to: GraphFormat) -> None:
    file = HEART / "data" / "cleveland.csv"
    site = LocalTraining(load_plan(HEART), swarm.Site("here", file), HEART, device="cpu")
    graph = make_graph(site, copied(site), site.statistics(), site.plan.table(file), to)
    assert graph.rows == 16
    assert graph.difference < 1e-6
    x = torch.randn(300, *graph.inputs["x"].shape)
    site.model.eval()
    with torch.no_grad():
        plain = site.plan.predict(site.model, x)["disease"].numpy()
    [found] = run(graph, to, x)
    assert np.abs(found - plain).max() < 1e-6


@pytest.mark.parametrize("to", FORMATS)
def test_inputs_and_outputs_have_the_plans_names_and_none_twice(
    to: GraphFormat, tmp_path: Path
) -> None:
    site = small(
        tmp_path / "plan",
        inputs='return {"x": table.numbers("a", "b"), "known": table.numbers("b")[:, 0] > 0}',
        predict='z = model(x["x"]); return {"x": z[:, 0] * x["known"], "both": z}',
    )
    graph = graph_of(site, to)
    assert {name: tuple(t.shape) for name, t in graph.inputs.items()} == {"x_in": (2,), "known": ()}
    assert {name: tuple(t.shape) for name, t in graph.outputs.items()} == {"x": (), "both": (2,)}
    rows, known = torch.randn(4, 2), torch.tensor([True, False, True, True])
    one, both = run(graph, to, rows, known)
    assert np.abs(both - site.model(rows).detach().numpy()).max() < 1e-6
    assert one[1] == 0 != one[0]


def test_a_layer_that_looks_at_values_is_named(tmp_path: Path) -> None:
    site = small(tmp_path / "plan", layer="return x if float(x.sum()) > 0 else -x")
    with pytest.raises(PlanError, match=r"the layer 1 \(Layer\) cannot be in a graph: plan.py:8"):
        graph_of(site, "torch")


def test_a_layer_that_onnx_does_not_have_is_named_and_torch_takes_it(tmp_path: Path) -> None:
    layer = "return torch.linalg.eigh(x[:, :, None] * x[:, None, :])[0]"
    site = small(tmp_path / "plan", layer=layer)
    with pytest.raises(PlanError, match=r"the layer 1 \(Layer\) computes \S*eigh, which ONNX"):
        graph_of(site, "onnx")
    assert graph_of(site, "torch").difference < 1e-6


def test_a_model_for_one_number_of_rows_and_a_prediction_of_no_tensor_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(PlanError, match="depends on how many rows"):
        graph_of(small(tmp_path / "a", layer="return x if len(x) < 9 else -x"), "torch")
    site = small(tmp_path / "b", predict='return {"risk": model(x).tolist()}')
    with pytest.raises(PlanError, match="'risk' is list, which is in no graph"):
        graph_of(site, "torch")


def test_a_prediction_by_chance_is_not_written(tmp_path: Path) -> None:
    site = small(tmp_path / "plan", predict="return model(x) + torch.randn(x.shape[0], 1)")
    with pytest.raises(PlanError, match="draw at random"):
        graph_of(site, "torch")


@pytest.mark.parametrize("to", FORMATS)
def test_no_row_no_code_and_no_path_is_in_the_file(to: GraphFormat, tmp_path: Path) -> None:
    row = np.array([0.123456789, 0.987654321], np.float32)
    site = small(tmp_path / "plan")
    table = as_table({"a": [f"{row[0]:.9f}"] * 4, "b": [f"{row[1]:.9f}"] * 4})
    content = make_graph(site, copied(site), None, table, to).content
    parts = [content]
    if to == "torch":
        archive = zipfile.ZipFile(io.BytesIO(content))
        parts = [archive.read(name) for name in archive.namelist()]
        assert not any(part.startswith(b"\x80") for part in parts)  # as pickles do
        assert b'"use_pickle": true' not in b"".join(parts)
    for part in parts:
        assert row.tobytes() not in part
        assert str(tmp_path).encode() not in part
        assert b"plan.py" not in part
