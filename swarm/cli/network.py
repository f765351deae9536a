"""`swarm network`: the beginning of a consortium."""

from __future__ import annotations

import time
from pathlib import Path

import click

from swarm.cli.options import FILE
from swarm.errors import ConfigurationError
from swarm.visible import visible


@click.group("network")
def command() -> None:
    """Found a consortium from join cards."""


@command.command()
@click.argument("cards", nargs=-1, required=True, type=FILE)
@click.option("--time", "timestamp", type=int, required=True, help="Agreed start, in Unix seconds.")
@click.option("--output", type=FILE, default=Path("network.json"), show_default=True)
@click.option("--force", is_flag=True, help="Replace another consortium's file at --output.")
def found(cards: tuple[Path, ...], timestamp: int, output: Path, force: bool) -> None:
    """Compute network.json from the founders' CARDS.

    Every founder runs this with the same cards (in any order) and the same --time, and gets the
    same file: compare the chain id before you start your nodes.

    \b
    swarm network found mary.json charite.json kyoto.json --time 1790000000
    """
    from swarm.chain.genesis import read_genesis, write_genesis
    from swarm.node.home.setup import found_network, read_cards

    _refuse_future(timestamp)
    genesis = found_network(read_cards(cards), timestamp)
    if output.exists():
        try:
            differs = read_genesis(output).digest != genesis.digest
        except ConfigurationError as error:
            raise ConfigurationError(f"{error}; or name another --output") from None
        if differs and not force:
            raise ConfigurationError(
                f"{output} is the file of another consortium: name another --output, or give "
                "--force to replace it"
            )
    write_genesis(output, genesis)
    names = ", ".join(visible(founder.name) for founder in genesis.founders)
    click.echo(f"{output}: chain id {genesis.chain_id}, founders {names}")
    click.echo("Every founder must see the same chain id. Put the file into each node's directory.")


def _refuse_future(timestamp: int) -> None:
    """Blocks cannot be older than their chain: until then, no node could do anything."""
    ahead_s = timestamp - time.time()
    if ahead_s > 0:
        raise ConfigurationError(
            f"--time {timestamp} is {ahead_s:.0f} s in the future: agree on a time that has "
            "passed, such as what `date +%s` says now"
        )
