"""A model as a graph that runs without swarm, and without the plan's code: ONNX, or `torch.export`.

In it are the module and the plan's `predict`, so it gives what `swarm predict` gives, for rows that
the plan has prepared. What `inputs` and `prepare` do with a table is numpy of any kind, and stays
outside. Neither format holds Python: ONNX is a protobuf, a `.pt2` file JSON and plain tensors.

The graph is traced with rows of zeros, and no row of the site's is in it.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swarm.errors import ConfigurationError, PlanError
from swarm.learning.data.batches import rows_in, take
from swarm.learning.parameters.named_tensors import State, set_state, state_of
from swarm.learning.plans.plan import Plan
from swarm.learning.plans.plan_faults import valid_text
from swarm.learning.supervisor.trainer_messages import GraphFormat
from swarm.learning.training.loop import LocalTraining
from swarm.learning.training.predicting import Sums, prepare_inputs
from swarm.learning.training.site_plan import describe

TRACED_ROWS = 3
COMPARED_ROWS = 16
AGREEMENT = 1e-4
"""How far the graph's numbers may be from the module's, relative to the larger of 1 and theirs:
float32 that is added in another order differs by some 1e-7 an operation."""
MAX_ONNX_BYTES = 2**31 - 2**24
"""A protobuf ends at 2 GiB."""


@dataclass(frozen=True)
class Graph:
    """A file's `content`; what it takes and gives by name, as tensors of one row; and its largest
    difference from the module on `rows` rows, as `AGREEMENT` counts it."""

    content: bytes
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    rows: int
    difference: float


def make_graph(
    site: LocalTraining, state: State, statistics: Sums | None, table: Any, to: GraphFormat
) -> Graph:
    """Trace the plan's `predict` on rows like those of a table, as the plan's own `table` gives it.

    Raises PlanError naming the layer that cannot be traced or that the format does not know, or if
    the graph gives other numbers; ConfigurationError where ONNX is not installed.
    """
    rows = prepare_inputs(site, statistics, table)
    if not rows_in(rows):
        raise PlanError("the table has no rows: give one with the columns that the model is for")
    given = take(rows, np.arange(min(rows_in(rows), COMPARED_ROWS)))
    set_state(site.model, state, site.travels)
    was_training = site.model.training
    site.model.eval()
    try:
        with torch.no_grad(), site.deterministic("predict"):
            return _graph(site, given, to)
    finally:
        site.model.train(was_training)


class _Predicting(torch.nn.Module):
    """The plan's `predict` as a module from tensors to tensors. `names` are those of its results,
    once it was called."""

    def __init__(self, plan: Plan, model: torch.nn.Module, keys: tuple[Any, ...] | None) -> None:
        super().__init__()
        self.model = model
        self.names: tuple[str, ...] = ()
        self._plan, self._keys = plan, keys

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = tensors if self._keys is None else (dict(zip(self._keys, tensors, strict=True)),)
        output = self._plan.predict(self.model, *given)
        found = output if isinstance(output, Mapping) else {"prediction": output}
        for name, value in found.items():
            if not isinstance(value, torch.Tensor):
                raise PlanError(
                    f"predict must return tensors, and {name!r} is {describe(value)}, which is in "
                    "no graph"
                )
        self.names = tuple(valid_text(str(name)) for name in found)
        return tuple(found.values())


def _graph(site: LocalTraining, given: Any, to: GraphFormat) -> Graph:
    keys = tuple(given) if isinstance(given, dict) else None
    tensors = _tensors(given)
    predicting = _Predicting(site.plan, site.model, keys).eval()
    with site.faults("predicting", "predict"):
        plain = predicting(*tensors)
    names = _input_names(site.plan, keys, len(tensors), predicting.names)
    with _layer_named(site.model), site.faults("tracing the model", "predict"):
        program = _traced(predicting, tensors)
    if to == "onnx":
        content = _onnx(site, program, names, predicting.names)
        again = _run_onnx(content, dict(zip(names, tensors, strict=True)))
    else:
        content = _pt2(program)
        again = _run_pt2(content, tensors)
    return Graph(
        content,
        {name: tensor[0] for name, tensor in zip(names, tensors, strict=True)},
        {name: tensor[0] for name, tensor in zip(predicting.names, plain, strict=True)},
        len(tensors[0]),
        _compared(plain, again),
    )


def _tensors(given: Any) -> tuple[torch.Tensor, ...]:
    values = given.values() if isinstance(given, dict) else given
    tensors = (values,) if isinstance(values, torch.Tensor) else tuple(values)
    for value in tensors:
        if not isinstance(value, torch.Tensor):
            raise PlanError(f"a graph takes tensors, and the rows have {describe(value)}")
    return tensors


def _input_names(
    plan: Plan, keys: tuple[Any, ...] | None, count: int, taken: tuple[str, ...]
) -> list[str]:
    """The names that `predict` has for what it takes; never one of its results' as well."""
    if keys is None:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(plan.predict).parameters.values()
        named = [p.name for p in parameters if p.kind in kinds][1:]  # the first is the model
        names = [named[i] if i < len(named) else f"input_{i}" for i in range(count)]
    else:
        names = [valid_text(str(key)) for key in keys]
    return [f"{name}_in" if name in taken else name for name in names]


def _traced(predicting: _Predicting, given: tuple[torch.Tensor, ...]) -> Any:
    """The exported program, of any number of rows, without a path of this machine."""
    zeros = tuple(torch.zeros(TRACED_ROWS, *t.shape[1:], dtype=t.dtype) for t in given)
    rows = torch.export.Dim("rows")
    try:
        program = torch.export.export(
            predicting, zeros, dynamic_shapes=(({0: rows},) * len(zeros),)
        )
    except torch._dynamo.exc.UserError as error:
        if "Constraints violated" in str(error):
            raise PlanError(
                "the model or the plan's predict depends on how many rows there are: let it take "
                "any number, and ask for it by x.shape[0], because len(x) is a fixed number"
            ) from error
        raise
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


@contextmanager
def _layer_named(model: torch.nn.Module) -> Iterator[None]:
    """Name the innermost layer that was entered and not left, in a PlanError that passes."""
    entered: list[str] = []

    def enter(name: str) -> Any:
        return lambda module, given: entered.append(name)

    def leave(module: torch.nn.Module, given: Any, output: Any) -> None:
        entered.pop()

    hooks = []
    for name, module in model.named_modules():
        told = f"{name} ({type(module).__name__})" if name else type(module).__name__
        hooks += [module.register_forward_pre_hook(enter(told))]
        hooks += [module.register_forward_hook(leave)]
    try:
        yield
    except PlanError as error:
        if not entered:
            raise
        raise PlanError(f"the layer {entered[-1]} cannot be in a graph: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()


def _pt2(program: Any) -> bytes:
    program._example_inputs = None  # it would be a pickle
    written = io.BytesIO()
    torch.export.save(program, written)
    return written.getvalue()


def _run_pt2(content: bytes, tensors: tuple[torch.Tensor, ...]) -> list[NDArray[Any]]:
    module = torch.export.load(io.BytesIO(content)).module()
    return [np.asarray(value.numpy()) for value in module(*tensors)]


def _onnx(site: LocalTraining, program: Any, inputs: list[str], outputs: tuple[str, ...]) -> bytes:
    size = sum(v.numel() * v.element_size() for v in state_of(site.model).values())
    if size > MAX_ONNX_BYTES:
        raise PlanError(f"the model has {size} bytes, and an ONNX file 2 GiB at most: use torch")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigurationError("ONNX is not installed: pip install 'swarm[onnx]'") from None
    with site.faults("writing ONNX", "predict"):
        try:
            made = torch.onnx.export(
                program, dynamo=True, input_names=inputs, output_names=outputs, verbose=False
            )
        except torch.onnx.OnnxExporterError as error:
            raise PlanError(_in_words(program, error)) from error
        assert made is not None
        model = made.model_proto
    for value in (*model.graph.input, *model.graph.output):
        first = value.type.tensor_type.shape.dim[:1]
        for dimension in first:
            dimension.dim_param = "rows"
    content: bytes = model.SerializeToString()
    return content


def _in_words(program: Any, error: BaseException) -> str:
    """What ONNX does not know, and in which layer."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    said = " ".join(str(cause).split())
    for node in program.graph.nodes:
        name = getattr(node.target, "_opname", None) or str(node.target)
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        if name in said and stack:
            path, kind = stack[-1]
            layer = f"{path.removeprefix('model').lstrip('.') or 'itself'} ({_short(kind)})"
            return f"the layer {layer} computes {name}, which ONNX does not have: {said[:200]}"
    return f"ONNX does not have what the model computes: {said[:300]}"


def _short(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind)).rpartition(".")[2]


def _run_onnx(content: bytes, tensors: Mapping[str, torch.Tensor]) -> list[NDArray[Any]]:
    """By ONNX's own evaluator, which is slow and follows the standard to the letter."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load_from_string(content))
    found = evaluator.run(None, {name: value.numpy() for name, value in tensors.items()})
    return [np.asarray(value) for value in found]


def _compared(plain: tuple[torch.Tensor, ...], again: list[NDArray[Any]]) -> float:
    """The largest difference. Raises PlanError if it is none that rounding makes."""
    largest = 0.0
    for tensor, found in zip(plain, again, strict=True):
        expected = tensor.double().numpy()
        if expected.shape != found.shape:
            raise PlanError(f"the graph gives {list(found.shape)}, not {list(expected.shape)}")
        gap = np.abs(found.astype(np.float64) - expected) / np.maximum(1, np.abs(expected))
        largest = max(largest, float(np.nan_to_num(gap, nan=0.0).max(initial=0.0)))
        if not np.array_equal(np.isnan(expected), np.isnan(found.astype(np.float64))):
            largest = np.inf
    if largest > AGREEMENT:
        raise PlanError(
            f"the graph gives other numbers than the model (by {largest:.2g}), so it is not "
            "written: does the plan's predict draw at random?"
        )
    return largest
