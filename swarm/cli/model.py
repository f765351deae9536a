"""`swarm model`: what the rounds have made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from swarm.cli.options import (
    DIRECTORY,
    NUMBER,
    ask_node,
    for_people,
    json_option,
    node_option,
    print_json,
    print_table,
)
from swarm.cli.predict import MODEL, ROWS_FILE
from swarm.visible import visible


@click.group("model")
def command() -> None:
    """The models of finished rounds: list, export, convert, evaluate, table, sign, publish, find,
    pull."""


plan_option = click.option(
    "--plan", type=NUMBER, help="The newest of which this node keeps a model, by default."
)


round_option = click.option(
    "--round",
    "round_",
    type=NUMBER,
    help="By default the best, if the plan chooses one, or the newest.",
)


def _models(node: Path, plan: int | None) -> dict[str, Any]:
    answer: dict[str, Any] = ask_node(node, "models", plan=plan)
    return answer


def _choose(node: Path, plan: int | None, round: int | None) -> dict[str, Any]:
    """A model that is kept here, with the number of its plan: without `round` the best, if the plan
    chooses one, or the newest. Raises ConfigurationError."""
    from swarm.errors import ConfigurationError

    answer = _models(node, plan)
    models = answer["models"]
    if round is None:
        chosen = [m for m in models if m["round"] == answer["chosen"]]
    else:
        chosen = [m for m in models if m["number"] == round]
    if not chosen:
        held = ", ".join(str(m["number"]) for m in models) or "none yet"
        raise ConfigurationError(
            f"no model of that round of plan {answer['plan']} is kept here; there are: {held}"
        )
    return dict(chosen[-1], plan=answer["plan"])


@command.command("list")
@node_option
@plan_option
@json_option
def list_models(node: Path, plan: int | None, as_json: bool) -> None:
    """The final models that this node keeps."""
    answer = _models(node, plan)
    if as_json:
        print_json(answer)
        return
    click.echo(f"plan {answer['plan']}")
    print_table(
        ("round", "bytes", "digest"),
        [(m["number"], m["bytes"], m["digest"]) for m in answer["models"]],
    )


@command.command()
@node_option
@plan_option
@click.option(
    "--round",
    "round_",
    type=NUMBER,
    help="By default the best, if the plan chooses one, or the newest.",
)
@click.option("--force", is_flag=True, help="Replace FOLDER, if it is a model's.")
@click.argument("folder", type=DIRECTORY)
def export(node: Path, plan: int | None, round_: int | None, force: bool, folder: Path) -> None:
    """Write a model to FOLDER, with all that is needed to use it: statistics, code and a card.

    \b
    swarm model export heart
    swarm predict heart patients.csv --out predictions.csv
    python -c "import safetensors.torch as s; print(s.load_file('heart/model.safetensors'))"
    """
    from swarm.learning.models.model_folder import CARD_FOR_PEOPLE, check_free

    check_free(folder, force)
    model = _choose(node, plan, round_)
    place = str(folder.resolve())
    wanted = {"plan": model["plan"], "round": model["round"]}
    ask_node(node, "export", **wanted, path=place, force=force)
    click.echo(f"{folder}: plan {model['plan']}, round {model['number']}, digest {model['digest']}")
    click.echo(f"What it is: {folder / CARD_FOR_PEOPLE}")


@command.command()
@click.argument("model", type=MODEL)
@click.argument("folder", type=DIRECTORY)
@click.option(
    "--to", "format_", type=click.Choice(["onnx", "torch"]), required=True,
    help="An ONNX file, or one of torch.export (.pt2).",
)  # fmt: skip
@click.option(
    "--rows", type=ROWS_FILE, required=True,
    help="A file as for `swarm predict`: how its columns become the model's inputs is looked at. "
    "No row of it is in what is written.",
)  # fmt: skip
@json_option
def convert(model: Path, folder: Path, format_: str, rows: Path, as_json: bool) -> None:
    """Write MODEL, a folder that `swarm model export` has made, to the new FOLDER as a file for
    other programs, without the plan's code.

    What is in that file and what is not is told by its README.md. The plan's code runs in its box.

    \b
    swarm model export heart
    swarm model convert heart heart-onnx --to onnx --rows patients.csv
    """
    from swarm.learning.models.graph_folder import GRAPH_FILES, README, write_graph_folder
    from swarm.learning.models.model_folder import read_folder

    made = write_graph_folder(read_folder(model), rows, format_, folder)  # type: ignore[arg-type]
    if as_json:
        print_json(
            {
                "file": str(folder / GRAPH_FILES[format_]),
                "inputs": {t.name: {"type": t.dtype, "row": t.shape} for t in made.inputs},
                "outputs": {t.name: {"type": t.dtype, "row": t.shape} for t in made.outputs},
                "rows_compared": made.rows,
                "largest_difference": made.difference,
            }
        )
        return
    click.echo(
        f"{folder / GRAPH_FILES[format_]}: gives {', '.join(t.name for t in made.outputs)}, "
        f"within {made.difference:.1g} of the model on {made.rows} rows"
    )
    click.echo(f"What it takes, and what is not in it: {folder / README}")


@command.command()
@node_option
@plan_option
@click.option(
    "--round",
    "round_",
    type=NUMBER,
    help="By default the best, if the plan chooses one, or the newest.",
)
@json_option
def evaluate(node: Path, plan: int | None, round_: int | None, as_json: bool) -> None:
    """Score a model on this site's own validation and test rows."""
    model = _choose(node, plan, round_)
    answer = ask_node(node, "evaluate", plan=model["plan"], round=model["round"])
    if as_json:
        print_json(answer)
        return
    names = sorted({name for scores in answer["metrics"].values() for name in scores})
    print_table(
        ("rows", *names),
        [
            (part, *(_number(scores[n]) if n in scores else "" for n in names))
            for part, scores in answer["metrics"].items()
            if scores
        ],
    )


@command.command()
@node_option
@plan_option
@json_option
def table(node: Path, plan: int | None, as_json: bool) -> None:
    """What each site's test rows say of each site's own model, where a plan cross-evaluates."""
    from swarm.errors import ConfigurationError
    from swarm.rounds.model_tables import lines_of

    number = plan if plan is not None else _models(node, None)["plan"]
    tables = [r["table"] for r in ask_node(node, "records", plan=number) if r["table"]]
    if not tables:
        raise ConfigurationError(
            f"plan {number} has no table of its sites' models, or not yet: one is made by a plan "
            "whose last stage is swarm.cross_evaluate()"
        )
    if as_json:
        print_json(dict(tables[-1], plan=number))
        return
    click.echo(f"plan {number}: models by line, and on whose test rows they were scored")
    for heading, rows in lines_of(tables[-1]):
        print_table(heading, rows)
    if tables[-1]["silent"]:
        click.echo(visible(f"of no use were the counts of {', '.join(tables[-1]['silent'])}"))


@command.command()
@node_option
@plan_option
@json_option
def sign(node: Path, plan: int | None, as_json: bool) -> None:
    """Let this node sign a plan's model for whoever publishes it: the best, if the plan chooses
    one, or the newest.

    Needed unless node.toml has `policy.sign_models = "automatic"`. Published models are read by all
    members, those that did not train too. What the node signs it finds itself: nobody's words.
    """
    chosen = plan if plan is not None else _models(node, None)["plan"]
    told = ask_node(node, "sign_model", plan=chosen)
    if as_json:
        print_json(told)
        return
    licence = visible(told["licence"]) or "not stated"
    click.echo(
        f"{visible(told['name'])}, {_round(told)} of plan {told['plan_id']}, licence: "
        f"{licence}. This node signs, for any member that publishes it:"
    )
    click.echo(told["sentence"])


@command.command()
@node_option
@plan_option
@json_option
def publish(node: Path, plan: int | None, as_json: bool) -> None:
    """Publish a plan's model to all members, those that did not train it too: the best, if the
    plan chooses one, or the newest.

    More than half of its contributors sign what it is, each from what its node finds on the chain
    and in its own copy: once somebody there has said `swarm model sign`, or by itself where its
    policy says so.
    """
    chosen = plan if plan is not None else _models(node, None)["plan"]
    told = ask_node(node, "publish_model", plan=chosen)
    if as_json:
        print_json(told)
        return
    click.echo(
        f"{told['digest']}: {told['name']}, {_round(told)} of plan {told['plan_id']}, "
        f"signed by {told['signatures']} of {len(told['contributors'])} contributors"
    )


@command.command()
@node_option
@json_option
def find(node: Path, as_json: bool) -> None:
    """What members have published, and who has it. What does not agree with the chain is named."""
    told = for_people(ask_node(node, "find_models"))
    if as_json:
        print_json(told)
        return
    print_table(
        ("model", "plan", "round", "began with", "licence", "held by", "digest"),
        [
            (
                m["name"], m["plan_id"], m["round"],
                f"plan {m['continues']}" if m["continues"] else "its own",
                m["licence"], ", ".join(m["holders"]), m["digest"],
            )
            for m in told["models"]
        ],
    )  # fmt: skip
    for line in told["refused"]:
        click.echo(f"Left out: {line}", err=True)


@command.command()
@node_option
@click.option("--force", is_flag=True, help="Replace FOLDER, if it is a model's.")
@click.argument("digest")
@click.argument("folder", type=DIRECTORY)
def pull(node: Path, force: bool, digest: str, folder: Path) -> None:
    """Fetch the published model DIGEST from members, and write it to FOLDER.

    \b
    swarm model find
    swarm model pull 0x4b1f… heart
    swarm predict heart patients.csv
    """
    from swarm.learning.models.model_folder import check_free

    check_free(folder, force)
    place = str(folder.resolve())
    told = ask_node(node, "pull_model", digest=digest, path=place, force=force)
    click.echo(f"{folder}: {visible(told['name'])}, round {told['round']}, digest {told['model']}")


def _round(told: dict[str, Any]) -> str:
    """Which round's model it is, and why that one."""
    return f"round {told['round']}{', the best by the choice' if told['is_chosen'] else ''}"


def _number(value: float | None) -> str:
    """A score for people: one that cannot be given is a dash."""
    return "–" if value is None else f"{value:.4f}"
