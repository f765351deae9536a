"""`swarm dashboard`: what happens, in a browser on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from swarm.cli.options import DIRECTORY, signals_end_it


@click.command("dashboard")
@click.argument("directory", type=DIRECTORY, envvar="SWARM_NODE", default=Path("."))
@click.option(
    "--listen", default="127.0.0.1:0", show_default=True, help="Where to serve; port 0: any free."
)
@click.option("--open", "open_", is_flag=True, help="Open it in the browser at once.")
def command(directory: Path, listen: str, open_: bool) -> None:
    """Show the node in DIRECTORY in a browser, until Ctrl-C.

    The printed link opens it once, for one browser. Run the command again for another link. Nothing
    is loaded from outside this machine, and no other page can ask for anything.
    """
    import trio

    from swarm.dashboard.serving import serve
    from swarm.node.home.config import load_config

    load_config(directory)

    def ready(link: str) -> None:
        click.echo(link)
        if open_:
            click.launch(link)

    with signals_end_it():
        try:
            trio.run(serve, directory, listen, ready)
        except KeyboardInterrupt:
            click.echo("ended")
