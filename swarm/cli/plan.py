"""`swarm plan`: what is trained, through this institution's own node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from swarm.cli.options import (
    FILE,
    NUMBER,
    ask_node,
    at_time,
    for_people,
    goes_on,
    json_option,
    node_option,
    print_json,
    print_table,
    read_duration,
    short,
)
from swarm.visible import visible, visible_lines

PLAN_PATH = click.Path(exists=True, path_type=Path)
ANYTHING = click.Path(exists=True, path_type=Path)
SHOWN_AND_STOPPED = "`swarm plan list` shows it, and `swarm plan stop` takes it back"


def _read_try_for(context: click.Context, parameter: click.Parameter, text: str) -> int:
    seconds = read_duration(context, parameter, text) or 0
    if seconds > LONGEST_TRIAL_S:
        raise click.BadParameter(f"{text} is longer than {LONGEST_TRIAL_S} s")
    return seconds


LONGEST_TRIAL_S = 300
try_for_option = click.option(
    "--try-for",
    default="60s",
    show_default=True,
    metavar="TIME",
    callback=_read_try_for,
    help="How long a round is tried; of a longer one, the time is worked out.",
)

invite_option = click.option(
    "--invite",
    multiple=True,
    metavar="NAME",
    help="Only those named may take part, and all of them are waited for; all members by default.",
)
within_option = click.option(
    "--within",
    metavar="TIME",
    callback=read_duration,
    help="How long the invited may decide: 12h, 7d (default), 90d.",
)


@click.group("plan")
def command() -> None:
    """Training plans: propose, read, consent, decline, withdraw, stop, continue."""


@command.command()
@node_option
@click.argument("path", type=PLAN_PATH)
@click.option("--rounds", type=click.IntRange(1), help="Instead of the plan's own number.")
@invite_option
@within_option
@click.option("--base", metavar="MODEL", help='Begin from this: a safetensors file, or "plan 3".')
@json_option
def propose(
    node: Path,
    path: Path,
    rounds: int | None,
    invite: tuple[str, ...],
    within: int | None,
    base: str | None,
    as_json: bool,
) -> None:
    """Put the plan in PATH (a folder with plan.py, or one file) up for everyone's consent.

    Proposing is not consenting. The first round opens when every invited member has consented or
    declined, or when their time is over. Without --invite, members who come later may join, too.

    \b
    swarm plan propose examples/heart
    swarm plan propose examples/heart --invite Kyoto --invite "St. Mary" --within 14d
    swarm plan propose examples/heart --base "plan 3"
    """
    if base is not None and Path(base).exists():
        base = str(Path(base).resolve())
    elif base is not None and not base.startswith("plan "):
        raise click.BadParameter(f'there is no file {base!r}: name one, or "plan 3"')
    with goes_on(SHOWN_AND_STOPPED):
        answer = ask_node(
            node,
            "propose_plan",
            path=str(path.resolve()),
            rounds=rounds,
            invite=list(invite),
            within_s=within,
            base=base,
        )
    _tell_proposed(answer, as_json)


@command.command("continue")
@node_option
@click.argument("plan", type=NUMBER)
@click.option("--rounds", type=click.IntRange(1), required=True, help="How many more.")
@invite_option
@within_option
@json_option
def continue_(
    node: Path,
    plan: int,
    rounds: int,
    invite: tuple[str, ...],
    within: int | None,
    as_json: bool,
) -> None:
    """Propose more rounds of PLAN, which has ended: the same code, from its best model, if it
    chooses one, or its newest.

    It is a plan of its own, and waits for everyone's consent. Rounds are numbered on.
    """
    with goes_on(SHOWN_AND_STOPPED):
        answer = ask_node(
            node, "continue_plan", plan=plan, rounds=rounds, invite=list(invite), within_s=within
        )
    _tell_proposed(answer, as_json)


def _tell_proposed(answer: Any, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    answer = for_people(answer)
    click.echo(f"plan {answer['id']} ({answer['name']}), digest {answer['digest']}")
    if answer["began_with"]:
        click.echo(f"begins with {answer['began_with']}")
    click.echo(f"Next, at every institution: `swarm plan show {answer['id']}`, read it, and ")
    click.echo(f"`swarm plan consent {answer['id']}`, or `swarm plan decline {answer['id']}`.")
    click.echo(_invitation(answer))


@command.command("list")
@node_option
@json_option
def list_plans(node: Path, as_json: bool) -> None:
    """All plans of the consortium."""
    answer = ask_node(node, "plans")
    if as_json:
        print_json(answer)
        return
    print_table(
        ("id", "name", "status", "round", "participants", "undecided", "digest"),
        [
            (
                p["id"],
                p["name"],
                p["status"],
                # Without its stages it is not known which of them are no training.
                f"{p['model_round']} of {p['rounds']}" + " in all" * (p["stages"] is None),
                ", ".join(p["participants"]),
                ", ".join(p["undecided"]) if p["status"] == "proposed" else "",
                short(p["digest"]),
            )
            for p in answer
            if "unreadable" not in p
        ],
    )
    for unreadable in (p for p in answer if "unreadable" in p):
        click.echo(visible(f"plan {unreadable['id']} cannot be read: {unreadable['unreadable']}"))


@command.command()
@node_option
@click.argument("plan", type=NUMBER)
@click.option("--check", "with_trial", is_flag=True, help="Try it on this site's data, in the box.")
@try_for_option
@json_option
def show(node: Path, plan: int, with_trial: bool, try_for: int, as_json: bool) -> None:
    """PLAN's rules and all of its code: what consent would mean.

    With what this site's policy says of it, and what it imports. If this institution consented to a
    plan before, the code ends with a diff to that. With --check the node tries it: see
    `swarm plan check`.
    """
    from swarm.node.plans.words import rules_in_words

    answer = ask_node(node, "show_plan", plan=plan)
    if with_trial:
        answer["trial"] = ask_node(node, "try_plan", plan=plan, within_s=try_for)
    if as_json:
        print_json(answer)
        return
    code, before = answer.pop("code"), answer.pop("before")
    answer = for_people(answer)
    click.echo(f"plan {answer['id']}: {answer['name']}, proposed by {answer['proposer']}")
    click.echo(f"digest {answer['digest']}")
    click.echo(_invitation(answer))
    for line in rules_in_words(answer["rules"]):
        click.echo(f"rule   {line}")
    for sentence in answer["secrecy"]:
        click.echo(sentence)
    click.echo(f"begins from {answer['begins'] or 'model ' + answer['base']}")
    for line in _stages(answer):
        click.echo(line)
    said = answer["privacy"]
    click.echo(f"privacy {said} per training row" if said else "privacy none: updates tell of rows")
    for name, text in code.items():
        click.echo(f"\n----- {visible(name)}")
        # Numbered, so that no line of code looks like the beginning of another file.
        for number, line in enumerate(visible_lines(text.removesuffix("\n")), 1):
            click.echo(f"{number:5}  {line}".rstrip())
    if before is not None:
        _print_difference(before, code)
    click.echo("\nimports " + (", ".join(_modules(answer["imports"])) or "nothing"))
    for refusal in answer["policy"]:
        click.echo(click.style(f"refused by this site's policy: {refusal}", fg="red"))
    if with_trial:
        _print_trial(answer["trial"])


def _print_difference(before: dict[str, Any], code: dict[str, str]) -> None:
    from swarm.learning.code.difference import difference

    lines = difference(before["code"], code)
    what = f"plan {before['id']} ({visible(before['name'])}), consented to before"
    click.echo(f"\n===== what it changes of {what}" if lines else f"\nthe same code as {what}")
    for line in lines:
        click.echo(line)


def _modules(imports: list[dict[str, Any]]) -> list[str]:
    return sorted({each["module"] for each in imports})


def _print_trial(told: dict[str, Any]) -> None:
    import msgspec

    from swarm.node.consent.dry_run import Findings, in_words

    for line in in_words(msgspec.convert(told, Findings)):
        click.echo(visible(line))


@command.command()
@click.argument("path", type=PLAN_PATH)
@click.option("--data", type=ANYTHING, help="This site's data: a file or folder.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Of `data.options`.")
@click.option("--read", multiple=True, type=ANYTHING, help="A further file that it may read.")
@click.option("--device", default="auto", show_default=True)
@try_for_option
@json_option
def check(
    path: Path,
    data: Path | None,
    options: tuple[str, ...],
    read: tuple[Path, ...],
    device: str,
    try_for: int,
    as_json: bool,
) -> None:
    """Try the plan in PATH in the box: what it imports and reads, what would leave, how long it
    takes.

    Needs no node, and nothing leaves. The code runs: in what this machine allows of a box.

    \b
    swarm plan check examples/heart --data patients.csv
    """
    import trio

    from swarm.learning.supervisor.supervisor import TrainerConfig
    from swarm.node.consent.dry_run import in_words, try_plan

    given = dict(_option(text) for text in options)
    config = TrainerConfig(
        plan=path.resolve(),
        site="here",
        workspace=path,  # replaced by a folder that ends with the trial
        data=None if data is None else data.resolve(),
        read=tuple(each.resolve() for each in read),
        options=given,
        device=device,
    )
    found = trio.run(try_plan, config, float(try_for))
    if as_json:
        print_json(found)
        return
    for line in in_words(found):
        click.echo(visible(line))


def _option(text: str) -> tuple[str, str | int | float | bool]:
    """A site's option as node.toml would have it: TOML's value, or else the text."""
    import msgspec

    from swarm.errors import UNREADABLE

    key, separator, value = text.partition("=")
    if not separator or not key:
        raise click.BadParameter(f"{text!r} is no option: write KEY=VALUE")
    try:
        read = msgspec.toml.decode(f"value = {value}")["value"]
    except (*UNREADABLE, ValueError):
        return key, value
    return key, read if isinstance(read, str | int | float | bool) else value


def _stages(plan: dict[str, Any]) -> Iterator[str]:
    """The program, a line a stage; in red what the proposer has changed of the code's."""
    from swarm.node.plans.words import stages_in_words

    if plan["stages"] is None:
        yield f"stages unknown: nobody within reach has {plan['program']}, or it is too new"
        return
    for line, merged, changed in stages_in_words(plan["stages"]):
        yield line
        yield from (f"         {words}" for words in merged)
        if changed:
            yield click.style(f"         asked for by the proposer: {changed}", fg="red")


@command.command()
@node_option
@click.argument("plan", type=NUMBER)
@click.option("--code", type=PLAN_PATH, help="Your own copy: must have the plan's digest.")
def consent(node: Path, plan: int, code: Path | None) -> None:
    """Join PLAN: this node will train it on this site's data, until it ends or you withdraw.

    The code runs on this machine with access to this site's data: read it first, with
    `swarm plan show`.
    """
    path = None if code is None else str(code.resolve())
    with goes_on(f"`swarm plan list` shows it, and `swarm plan withdraw {plan}` takes it back"):
        answer = for_people(ask_node(node, "consent", plan=plan, path=path))
    click.echo(
        f"consented to plan {plan}, digest {answer['digest']}, with up to "
        f"{answer['max_samples']} samples"
    )


@command.command()
@node_option
@click.argument("plan", type=NUMBER)
@click.option("--key", type=FILE, help="The key to sign with: a keystore file, not this node's.")
@click.option("--password-file", type=FILE, help="What opens the key; otherwise it is asked for.")
@click.option("--signature", help="A signature of the sentence that was made elsewhere, in hex.")
def confirm(
    node: Path, plan: int, key: Path | None, password_file: Path | None, signature: str | None
) -> None:
    """The second person's word on PLAN, where the site's `policy.confirmers` asks for one.

    Prints the sentence that is signed. With --key it is signed here, by a key that the node never
    sees; any wallet that signs text (EIP-191) can do it, too: give its --signature.

    \b
    swarm plan confirm 3 --key anna.json
    """
    asked = ask_node(node, "plan_sentence", plan=plan)
    click.echo(visible(asked["sentence"]))
    if key is not None:
        signature = _signed(asked["sentence"], key, password_file)
    if signature is None:
        who = ", ".join(asked["confirmers"]) or "nobody: `policy.confirmers` is empty"
        click.echo(f"May be confirmed by: {visible(who)}")
        return
    answer = ask_node(node, "confirm_plan", plan=plan, signature=signature)
    click.echo(f"confirmed by {answer['confirmer']}; now `swarm plan consent {plan}`")


def _signed(sentence: str, key: Path, password_file: Path | None) -> str:
    from swarm.node.consent.confirmations import sign
    from swarm.node.home.keys import load_key, read_password

    if password_file is None:
        password = str(click.prompt("Password of the key", hide_input=True))
    else:
        password = read_password(password_file)
    return sign(sentence, load_key(key, password))


@command.command()
@click.argument("file", type=FILE)
@click.option("--password-file", type=FILE, help="What will open it; otherwise it is asked for.")
def signer(file: Path, password_file: Path | None) -> None:
    """Make a key for a person who confirms plans, and tell its account.

    The account belongs into `policy.confirmers` of node.toml; FILE and its password stay with that
    person, and away from the node.
    """
    from swarm.node.home.keys import create_key, read_password
    from swarm.types import to_hex

    if password_file is None:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = read_password(password_file)
    click.echo(to_hex(create_key(file, str(password))))


@command.command()
@node_option
@click.argument("plan", type=NUMBER)
def decline(node: Path, plan: int) -> None:
    """Take no part in PLAN, and say so: nobody waits for this institution's answer any more.

    A later consent takes it back.
    """
    with goes_on(f"`swarm plan list` shows it, and `swarm plan consent {plan}` takes it back"):
        answer = for_people(ask_node(node, "decline", plan=plan))
    click.echo(f"declined plan {plan}")
    click.echo(_invitation(answer))


def _invitation(plan: dict[str, Any]) -> str:
    """Who has not decided yet, and until when they are waited for."""
    if plan["status"] != "proposed":
        return f"consented: {', '.join(plan['participants']) or 'nobody'}"
    if not plan["undecided"]:
        return "every invited member has decided"
    who = ", ".join(plan["undecided"])
    return f"waits for the answer of {who}, until {at_time(plan['until'])} at the latest"


@command.command()
@node_option
@click.argument("plan", type=NUMBER)
def withdraw(node: Path, plan: int) -> None:
    """Leave PLAN; a running round goes on without this site's update."""
    with goes_on(f"`swarm plan list` shows it, and `swarm plan consent {plan}` takes it back"):
        ask_node(node, "withdraw", plan=plan)
    click.echo(f"withdrawn from plan {plan}")


@command.command()
@node_option
@click.argument("plan", type=NUMBER)
def stop(node: Path, plan: int) -> None:
    """End PLAN for all: at once by its proposer, otherwise when more than half of its
    participants have asked."""
    with goes_on("`swarm plan list` shows it, and `swarm plan continue` goes on from its model"):
        answer = for_people(ask_node(node, "stop_plan", plan=plan))
    click.echo(f"plan {plan}: {answer['status']}")
