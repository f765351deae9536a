"""`swarm init`: a new node's directory."""

from __future__ import annotations

from pathlib import Path

import click

from swarm.cli.options import DIRECTORY, FILE, typed_new_password


@click.command("init")
@click.argument("directory", type=DIRECTORY)
@click.option("--name", required=True, help="The institution's name, as the others will see it.")
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), help="This site's data: file or folder."
)
@click.option(
    "--listen",
    default="/ip4/127.0.0.1/tcp/4001",
    show_default=True,
    help="Multiaddr to listen on; /ip4/0.0.0.0/tcp/4001 to be reachable from other machines.",
)
@click.option(
    "--announce",
    multiple=True,
    help="Multiaddr under which others reach this node, e.g. /dns4/swarm.hospital.org/tcp/4001.",
)
@click.option("--http", default="127.0.0.1:8545", show_default=True, help="JSON-RPC and status.")
@click.option("--password-file", type=FILE, help="Read the key's password from here.")
@click.option(
    "--account",
    metavar="ADDRESS",
    help="Who decides for this institution, by a key that lies elsewhere (`swarm plan signer` "
    "makes one); the node's own key by default.",
)
@click.option(
    "--unattended", is_flag=True, help="Make a random password and keep it in the directory."
)
def command(
    directory: Path,
    name: str,
    data: Path | None,
    listen: str,
    announce: tuple[str, ...],
    http: str,
    password_file: Path | None,
    account: str | None,
    unattended: bool,
) -> None:
    """Make DIRECTORY with a new encrypted key, node.toml, and a join card for the others.

    \b
    swarm init hospital --name "St. Mary" --data patients.csv
    """
    from swarm.errors import ConfigurationError
    from swarm.node.home.keys import read_password
    from swarm.node.home.setup import create_node
    from swarm.types import to_address

    if unattended and password_file is not None:
        raise click.UsageError("give --password-file or --unattended, not both")
    try:
        governor = None if account is None else to_address(account)
    except ValueError as error:
        raise ConfigurationError(f"--account: {error}") from None
    if unattended:
        password = None
    elif password_file is not None:
        password = read_password(password_file)
    else:
        password = typed_new_password(
            "Password for the new key", "--password-file FILE, or --unattended"
        )
    card = create_node(
        directory,
        name,
        password=password,
        listen=listen,
        announce=announce,
        http=http,
        data=None if data is None else data.resolve(),
        account=governor,
    )
    click.echo(f"{directory}/card.json  the join card: give it to the other founders or members")
    click.echo(f"{directory}/node.toml  the configuration: read it through")
    click.echo(f"{directory}/key.json   the key 0x{card.node.hex()}: keep a copy in a safe place")
    click.echo(
        "Next: `swarm network found` with everyone's cards, or put the network.json that you"
    )
    click.echo(f"were given into {directory}; then `swarm node start {directory}`.")
