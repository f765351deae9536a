"""Writing the model of a run without a network as a folder, as a node writes its own."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from swarm.learning.code import bundle
from swarm.learning.models.card import Card, CardSite, describe_plan
from swarm.learning.models.model_folder import ModelFolder, check_free, write_folder
from swarm.learning.parameters.named_tensors import set_state, state_of, write_arrays, write_state
from swarm.learning.simulation.whole_run import FederatedRun
from swarm.types import to_hex


def export_run(
    run: FederatedRun, path: Path, *, round: int = -1, force: bool = False
) -> ModelFolder:
    """Write a round's model (the last by default) to the folder `path`.

    Nobody agreed on it, so its card names no chain. Raises ConfigurationError if there is
    something else at `path`.
    """
    check_free(path, force)
    first = run.sites[0]
    code = bundle.read(first.folder)
    set_state(first.model, run.models[round], first.travels)
    card = Card(
        name=type(first.plan).__name__,
        about=describe_plan(code),
        licence=first.plan.licence,
        plan=to_hex(code.digest),
        round=range(len(run.models))[round],
        rounds=len(run.models) - 1,
        sites=tuple(
            CardSite(site.site.name, rows, rows > 0)
            for site in run.sites
            for rows in [site.samples().train]
        ),
    )
    with TemporaryDirectory() as folder:
        model, sums = Path(folder) / "model", None
        write_state(model, state_of(first.model))
        if run.statistics is not None:
            sums = Path(folder) / "sums"
            write_arrays(sums, run.statistics)
        return write_folder(path, model, sums, code, card, force)
