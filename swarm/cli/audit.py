"""`swarm audit`: check all that happened, from the first block on."""

from __future__ import annotations

from pathlib import Path

import click

from swarm.cli.options import DIRECTORY, FILE
from swarm.visible import visible


@click.command("audit")
@click.argument("directory", type=DIRECTORY, envvar="SWARM_NODE", default=Path("."))
@click.option("--until", type=click.IntRange(min=0), help="Stop at this block; to compare digests.")
@click.option("--json", "json_file", type=FILE, help="Write the report here, for programs.")
@click.option("--html", "html_file", type=FILE, help="Write the report here, as one page.")
def command(
    directory: Path, until: int | None, json_file: Path | None, html_file: Path | None
) -> None:
    """Check everything that the node in DIRECTORY keeps, running or not.

    Every block is carried out again from the genesis, every seal is checked, every stored block,
    blob and record is compared with what follows. Exit status 1 if anything differs.

    \b
    swarm audit hospital --html audit.html
    """
    import msgspec

    from swarm.audit.audit import audit
    from swarm.audit.page import page
    from swarm.audit.words import told

    report = audit(directory, until)
    # First what can fail, as on a full disk: a report that was not kept is not told as one.
    if json_file is not None:
        text = msgspec.json.format(msgspec.json.encode(report), indent=2)
        json_file.write_bytes(text + b"\n")
    if html_file is not None:
        html_file.write_text(page(report), encoding="utf-8")
    for line in told(report):
        click.echo(visible(line))
    if report.faults:
        raise SystemExit(1)
