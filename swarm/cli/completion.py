"""`swarm completion`: commands and options completed by the shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what has SHELL complete swarm's commands and options.

    \b
    swarm completion bash >> ~/.bashrc
    swarm completion fish > ~/.config/fish/completions/swarm.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root()
    click.echo(kind(root.command, {}, "swarm", "_SWARM_COMPLETE").source())
