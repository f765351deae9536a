"""`swarm bench`: how fast this machine is at what the nodes do."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from swarm.cli.options import DIRECTORY, FILE, print_table, signals_end_it

F = TypeVar("F", bound=Callable[..., Any])
MOST_PEERS = 64


def sizes(context: click.Context, option: click.Parameter, text: str) -> list[int]:
    """Bytes of one or several sizes: `4MB`, or `1MB,4MB,25MB`."""
    from swarm.bench.machine import parse_size

    try:
        return [parse_size(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def counts(context: click.Context, option: click.Parameter, text: str) -> list[int]:
    """One or several numbers of peers: `4`, or `2,4,8`."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is no number") from None
    if not all(2 <= count <= MOST_PEERS for count in found):
        raise click.BadParameter(f"{text} is not within 2 to {MOST_PEERS}")
    return found


FOLDS_OF_ROUNDS = (
    *("mean", "median", "trimmed", "krum", "multi_krum", "geometric_median"),
    *("momentum", "nesterov", "adam", "yogi"),
)


def folds(context: click.Context, option: click.Parameter, text: str) -> list[str]:
    """Names of folds with commas between, or `all`."""
    from swarm.bench.merge import FOLDS

    found = list(FOLDS) if text == "all" else [name.strip() for name in text.split(",")]
    for name in found:
        if name not in FOLDS:
            raise click.BadParameter(f"{name!r} is none of: {', '.join(FOLDS)}, all")
    return found


def report_option(function: F) -> F:
    """`--json FILE`: the figures for programs."""
    return click.option("--json", "report_file", type=FILE, help="Write the figures here, too.")(
        function
    )


def directory_option(function: F) -> F:
    """`--dir DIR`: on which disk."""
    return click.option(
        "--dir", "directory", type=DIRECTORY, show_default="in memory, /dev/shm, where there is",
        help="Where the nodes' files lie while it runs.",
    )(function)  # fmt: skip


def report(benchmark: str, results: list[dict[str, Any]], file: Path | None) -> None:
    """Name the machine, and write the figures to `file`."""
    import msgspec

    from swarm.bench.machine import describe_machine

    machine = describe_machine()
    click.echo(
        f"\n{machine['date']}, {machine['system']}, {machine['cpus']} CPUs, "
        f"{machine['memory_gib']} GiB, load {machine['load']}"
    )
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = {"benchmark": benchmark, "machine": machine, "results": results}
        file.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=2))


@click.group("bench")
@click.pass_context
def command(context: click.Context) -> None:
    """How fast this machine is at what the nodes do."""
    context.with_resource(signals_end_it())


@command.command()
@click.option("--size", callback=sizes, default="256MB", show_default=True, help="Of the blob.")
@click.option(
    "--repeat", type=click.IntRange(5, 100), default=5, show_default=True,
    help="How often; one repetition before does not count.",
)  # fmt: skip
@directory_option
@report_option
def transfer(
    size: list[int], repeat: int, directory: Path | None, report_file: Path | None
) -> None:
    """One blob between two nodes, beside a raw TLS 1.3 socket.

    \b
    swarm bench transfer --size 256MB
    """
    from swarm.bench.machine import tell_size, working_directory
    from swarm.bench.transfer import measure_transfer

    results = []
    for one in size:
        with working_directory(directory) as folder:
            results.append(measure_transfer(one, repeat, folder))
    print_table(
        (
            *("size", "files on", "raw TLS MB/s", "nodes MB/s", "ratio", "at best"),
            *("raw CPU s", "nodes CPU s", "receiver MB", "grew by MB"),
        ),
        [
            (
                tell_size(r["size_bytes"]),
                r["directory"],
                r["raw_mb_per_s"],
                r["node_mb_per_s"],
                r["ratio"],
                r["best_ratio"],
                r["cpu_s"]["raw"],
                r["cpu_s"]["node"],
                _megabytes(r["receiver_bytes"]),
                _megabytes(r["receiver_growth_bytes"]),
            )
            for r in results
        ],
    )
    report("transfer", results, report_file)


@command.command()
@click.option("--size", callback=sizes, default="64KB", show_default=True, help="Each way.")
@click.option("--large", callback=sizes, default="16MB", show_default=True, help="One way.")
@click.option(
    "--trips", type=click.IntRange(10, 100_000), default=500, show_default=True,
    help="Round trips of the size.",
)  # fmt: skip
@click.option(
    "--repeat", type=click.IntRange(1, 1000), default=10, show_default=True,
    help="How many large ones.",
)  # fmt: skip
@directory_option
@report_option
def stream(
    size: list[int],
    large: list[int],
    trips: int,
    repeat: int,
    directory: Path | None,
    report_file: Path | None,
) -> None:
    """Tensors from trainer to trainer within a round, beside a transfer and a raw TLS 1.3 socket.

    \b
    swarm bench stream --size 64KB --large 16MB
    """
    from swarm.bench.machine import tell_size, working_directory
    from swarm.bench.stream import measure_stream

    results = []
    for small, big in itertools.product(size, large):
        with working_directory(directory) as folder:
            results.append(measure_stream(small, big, trips, repeat, folder))
    print_table(
        (
            *("size", "round trips/s", "8 under way", "large", "stream MB/s"),
            *("transfer MB/s", "raw TLS MB/s", "ratio"),
        ),
        [
            (
                tell_size(r["small_bytes"]),
                r["round_trips_per_s"],
                r["round_trips_per_s_eight_under_way"],
                tell_size(r["large_bytes"]),
                r["mb_per_s"],
                r["transfer_mb_per_s"],
                r["raw_mb_per_s"],
                r["ratio_to_transfer"],
            )
            for r in results
        ],
    )
    report("stream", results, report_file)


@command.command("round")
@click.option("--peers", callback=counts, default="4", show_default=True, help="Nodes.")
@click.option("--size", callback=sizes, default="4MB", show_default=True, help="Of the model.")
@click.option(
    "--verify", type=click.Choice(["held", "shared", "full"]), default="held", show_default=True,
    help="What the members check of a merge.",
)  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(1, 1000), default=7, show_default=True,
    help="How many are measured; two before them do not count.",
)  # fmt: skip
@click.option(
    "--wire", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True,
    help="The type in which parameters travel; the size is that in fp32.",
)  # fmt: skip
@click.option(
    "--fold", type=click.Choice(FOLDS_OF_ROUNDS), default="mean", show_default=True,
    help="What becomes of the updates; rules by distance need `--verify full`.",
)  # fmt: skip
@click.option("--secure", is_flag=True, help="The same rounds masked, too, beside the plain ones.")
@directory_option
@report_option
def round_(
    peers: list[int],
    size: list[int],
    verify: str,
    rounds: int,
    wire: str,
    fold: str,
    secure: bool,
    directory: Path | None,
    report_file: Path | None,
) -> None:
    """Rounds of real nodes with a model of a given size, and no training.

    Several sizes or numbers of peers, with commas between, are measured one after the other.

    \b
    swarm bench round
    swarm bench round --peers 4 --size 1MB,4MB,25MB,100MB --json round.json
    swarm bench round --peers 5 --size 1MB --verify full --fold krum
    swarm bench round --size 4MB --verify full --secure
    """
    from swarm.bench.machine import working_directory
    from swarm.bench.rounds import RoundOptions, measure_rounds

    if secure and (fold, wire) != ("mean", "fp32"):
        raise click.BadParameter("--secure masks means in fp32: leave --fold and --wire out")
    if secure and min(peers) < 3:
        raise click.BadParameter("--secure hides a site among two others: --peers 3 or more")
    results: list[dict[str, Any]] = []
    try:
        for count, size_bytes in itertools.product(peers, size):
            for masked in (False, True) if secure else (False,):
                with working_directory(directory) as folder:
                    options = RoundOptions(count, size_bytes, verify, rounds, wire, fold, masked)
                    results.append(measure_rounds(options, folder))
    finally:  # what was measured before one failed is worth keeping
        if results:
            _show_rounds(results)
            _show_ratios(results)
            report("round", results, report_file)


def _show_ratios(results: list[dict[str, Any]]) -> None:
    """How much longer the secure rounds took than the plain ones before them."""
    from swarm.bench.machine import tell_size

    for plain, masked in itertools.pairwise(results):
        if masked["secure"]:
            ratio = masked["seconds"]["median"] / plain["seconds"]["median"]
            click.echo(
                f"{masked['peers']} peers, {tell_size(masked['size_bytes'])}, {masked['verify']}: "
                f"a secure round takes {ratio:.2f} times a plain one"
            )


def _show_rounds(results: list[dict[str, Any]]) -> None:
    from swarm.bench.machine import tell_size

    print_table(
        (
            "peers", "travels", "verify", "secure", "files on", "s/round", "worst", "leader sent",
            "others sent", "received", "main MB", "main CPU s", "trainer CPU s", "blocks",
            "transactions", "chain kB",
        ),
        [
            (
                r["peers"],
                tell_size(r["model_bytes"]),
                r["verify"],
                "yes" if r["secure"] else "no",
                r["directory"],
                f"{r['seconds']['median']:.2f}",
                f"{r['seconds']['most']:.2f}",
                _times(r["models_moved"].get("leader_sent")),
                _times(r["models_moved"].get("other_sent")),
                _times(r["models_moved"].get("other_received")),
                _megabytes(r["main_peak_bytes"]),
                r["main_cpu_s"],
                r["trainer_cpu_s"],
                r["blocks"],
                r["transactions"],
                f"{r['chain_bytes'] / 1000:.1f}",
            )
            for r in results
        ],
    )  # fmt: skip


@command.command()
@click.option("--peers", callback=counts, default="4", show_default=True, help="Nodes.")
@click.option(
    "--in-flight", type=click.IntRange(1, 500), default=50, show_default=True,
    help="Transactions under way at once, when the rate is measured.",
)  # fmt: skip
@directory_option
@report_option
def chain(
    peers: list[int], in_flight: int, directory: Path | None, report_file: Path | None
) -> None:
    """Seconds from a transaction to its final receipt on all nodes, and how many fit in a second.

    \b
    swarm bench chain --peers 4
    """
    from swarm.bench.chain import ChainOptions, measure_chain
    from swarm.bench.machine import working_directory

    results = []
    for count in peers:
        with working_directory(directory) as folder:
            options = ChainOptions(count, in_flight=in_flight)
            results.append(measure_chain(options, folder))
    print_table(
        ("peers", "one by one", "median ms", "p95 ms", "in flight", "a second", "in a block"),
        [
            (
                r["peers"],
                r["one_by_one"],
                f"{1000 * r['median_s']:.0f}",
                f"{1000 * r['p95_s']:.0f}",
                r["in_flight"],
                r["per_second"],
                r["transactions_per_block"],
            )
            for r in results
        ],
    )
    report("chain", results, report_file)


@command.command()
@click.option("--size", callback=sizes, default="100MB", show_default=True, help="Of each update.")
@click.option(
    "--repeat", type=click.IntRange(5, 100), default=7, show_default=True,
    help="How often; one repetition before does not count.",
)  # fmt: skip
@click.option(
    "--fold", "chosen", metavar="NAME", callback=folds, default="mean", show_default=True,
    help="What is measured: mean, median, krum, adam, …, several with commas between, or all.",
)  # fmt: skip
@report_option
def merge(size: list[int], repeat: int, chosen: list[str], report_file: Path | None) -> None:
    """The weighted mean of four updates, beside a copy of the same bytes; other folds beside it.

    Rules that choose by distance need five updates.

    \b
    swarm bench merge --size 100MB
    swarm bench merge --size 25MB --fold median,krum,adam
    """
    from swarm.bench.machine import tell_size
    from swarm.bench.merge import measure_merge

    threads = sorted({1, 2, os.cpu_count() or 1})
    results = [r for one in size for r in measure_merge(one, threads, repeat, chosen)]
    print_table(
        ("fold", "updates", "of", "threads", "copy GB/s", "fold MB/s", "of copy", "of mean"),
        [
            (
                r["fold"],
                r["updates"],
                tell_size(r["size_bytes"]),
                r["threads"],
                r["copy_gb_per_s"],
                round(1000 * r["merge_gb_per_s"]),
                r["ratio"],
                r["of_mean"],
            )
            for r in results
        ],
    )
    report("merge", results, report_file)


@command.command()
@click.option("--size", callback=sizes, default="100MB", show_default=True, help="Of the update.")
@click.option(
    "--members", type=click.IntRange(2, 64), default=8, show_default=True,
    help="How many share masks.",
)  # fmt: skip
@click.option("--repeat", type=click.IntRange(1, 100), default=5, show_default=True)
@report_option
def mask(size: list[int], members: int, repeat: int, report_file: Path | None) -> None:
    """What masking an update costs one member, beside a copy of the same bytes.

    \b
    swarm bench mask --size 100MB --members 8
    """
    from swarm.bench.machine import tell_size
    from swarm.bench.mask import measure_mask

    results = [measure_mask(one, members, repeat) for one in size]
    rows = [
        (tell_size(r["size_bytes"]), r["members"], name, f"{1000 * seconds:.1f}")
        for r in results
        for name, seconds in r["seconds"].items()
    ]
    print_table(("of", "members", "step", "ms"), rows)
    report("mask", results, report_file)


@command.command()
@click.argument("plan", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--turns", type=click.IntRange(5, 1000), default=30, show_default=True,
    help="Rounds in the box and without it; one turn before them does not count.",
)  # fmt: skip
@directory_option
@report_option
def box(plan: Path, turns: int, directory: Path | None, report_file: Path | None) -> None:
    """Training a plan in the box that keeps its code in, beside training it without.

    \b
    swarm bench box examples/heart
    """
    from swarm.bench.box import measure_box
    from swarm.bench.machine import working_directory

    with working_directory(directory) as folder:
        found = measure_box(plan, turns, folder)
    names = {"auto": "in the box", "off": "without"}
    print_table(
        ("trains", "start s", "round ms", "least", "most", "round trip ms"),
        [
            (
                said,
                f"{found['start_s'][name]:.1f}",
                *(f"{1000 * found['round_s'][name][of]:.0f}" for of in ("median", "least", "most")),
                f"{1000 * found['round_trip_s'][name]:.2f}",
            )
            for name, said in names.items()
        ],
    )
    ratio = found["ratio"]
    click.echo(
        f"{found['site']} of {found['plan']}: a round in the box takes {ratio['median']:.3f} times "
        f"one without (median of {turns} pairs)"
    )
    report("box", [found], report_file)


@command.command()
@click.argument("plan", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--epsilon", type=click.FloatRange(0, 1000, min_open=True),
    help="What it is tried with beside no privacy; by default what the plan says.",
)  # fmt: skip
@click.option("--seeds", type=click.IntRange(1, 100), default=1, show_default=True)
@report_option
def privacy(plan: Path, epsilon: float | None, seeds: int, report_file: Path | None) -> None:
    """What an attacker gets out of PLAN, a folder with its data: without and with privacy.

    Whether a row was trained on is guessed from a site's update and from the model: an AUC of .5
    is a coin. Canaries, each in or out by a coin, refute small epsilons from one run.

    \b
    swarm bench privacy my-plan --epsilon 8
    """
    from swarm.bench.privacy import measure_privacy
    from swarm.privacy.guarantee import dp

    promised = None if epsilon is None else dp(epsilon=epsilon)
    results = measure_privacy(plan, range(seeds), promised)
    print_table(
        ("privacy", "from update", "worst", "from model", "worst", "canaries refute ε below"),
        [
            (
                r["protection"],
                *(_auc(r[key]) for key in ("update_auc", "worst_update_auc")),
                *(_auc(r[key]) for key in ("model_auc", "worst_model_auc")),
                f"{r['audited_epsilon']:.2f} ({r['right']} of {r['guesses']} right)",
            )
            for r in results
        ],
    )
    report("privacy", results, report_file)


def _auc(value: float | None) -> str:
    return "too few rows" if value is None else f"{value:.3f}"


def _times(models: float | None) -> str:
    return "" if models is None else f"{models:.2f}×"


def _megabytes(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 1e6:.0f}"
