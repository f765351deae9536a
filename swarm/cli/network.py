"""`swarm network`: the beginning of a consortium."""

from __future__ import annotations

from pathlib import Path

import click

from swarm.cli.options import FILE
from swarm.visible import visible


@click.group("network")
def command() -> None:
    """Found a consortium from join cards."""


@command.command()
@click.argument("cards", nargs=-1, required=True, type=FILE)
@click.option("--time", "timestamp", type=int, required=True, help="Agreed start, in Unix seconds.")
@click.option("--output", type=FILE, default=Path("network.json"), show_default=True)
def found(cards: tuple[Path, ...], timestamp: int, output: Path) -> None:
    """Compute network.json from the founders' CARDS.

    Every founder runs this with the same cards (in any order) and the same --time, and gets the
    same file: compare the chain id before you start your nodes.

    \b
    swarm network found mary.json charite.json kyoto.json --time 1790000000
    """
    from swarm.chain.genesis import write_genesis
    from swarm.node.setup import found_network, read_cards

    genesis = found_network(read_cards(cards), timestamp)
    write_genesis(output, genesis)
    names = ", ".join(visible(founder.name) for founder in genesis.founders)
    click.echo(f"{output}: chain id {genesis.chain_id}, founders {names}")
    click.echo("Every founder must see the same chain id. Put the file into each node's directory.")
