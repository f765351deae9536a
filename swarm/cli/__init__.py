"""The command line: one module a command group, loaded only when it is called.

Every command ends with exit status 0, or says in one sentence what went wrong and what to do: 2 for
what the user can mend, 1 for the rest.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from swarm.errors import MACHINE_FAULTS, Interrupted, SwarmError, system_fault
from swarm.visible import visible, visible_lines

GROUPS = {
    "init": ("swarm.cli.init", "Make a new node's directory: its key, configuration, join card."),
    "network": ("swarm.cli.network", "Found a consortium from join cards."),
    "node": ("swarm.cli.node", "Start this institution's node; see how it is."),
    "contract": ("swarm.cli.contract", "Members: who they are, propose, vote, leave."),
    "plan": ("swarm.cli.plan", "Training plans: propose, read, consent, withdraw, stop."),
    "model": (
        "swarm.cli.model",
        "The models of finished rounds: list, export, publish, pull.",
    ),
    "predict": ("swarm.cli.predict", "Use a model on rows without labels, with one command."),
    "evaluate": ("swarm.cli.evaluate", "Score a model on new rows that have labels."),
    "chain": ("swarm.cli.chain", "This node's replica of the chain: recover it after a loss."),
    "dashboard": ("swarm.cli.dashboard", "What happens, in a browser on this machine."),
    "audit": ("swarm.cli.audit", "Check all that happened, from the first block on."),
    "doctor": ("swarm.cli.doctor", "What is wrong here, and the command that mends it."),
    "testnet": ("swarm.cli.testnet", "A whole consortium on this machine."),
    "simulate": ("swarm.cli.simulate", "A plan with thousands of clients, without a network."),
    "bench": ("swarm.cli.bench", "How fast this machine is at what the nodes do."),
    "completion": ("swarm.cli.completion", "Have your shell complete commands and options."),
}


class LazyGroup(click.Group):
    """Lists its commands without importing them: `swarm --help` must answer at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in GROUPS:
            return None
        module = importlib.import_module(GROUPS[cmd_name][0])
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in GROUPS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SwarmError as error:
            click.echo("\n".join(visible_lines(f"Error: {error}")), err=True)
            ctx.exit(error.exit_status)
        except BrokenPipeError:
            raise  # whoever read our output has seen enough; click ends quietly
        except OSError as error:
            # A path that the user gave cannot be read or written, or the disk is full.
            click.echo(visible(f"Error: {system_fault(error)}"), err=True)
            ctx.exit(1 if error.errno in MACHINE_FAULTS else 2)
        except KeyboardInterrupt:
            click.echo("\nError: interrupted: give the command again", err=True)
            ctx.exit(Interrupted.exit_status)
        except click.Abort:
            # Whatever asks, asks first. Ctrl-C there is an answer, too.
            click.echo("\nError: nothing was done: what was asked got no answer, or no", err=True)
            ctx.exit(1)


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"swarm {version('swarm')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
    help="Show the version.",
)  # fmt: skip
def main() -> None:
    """Institutions train one PyTorch model on data that never leaves them, with nobody in the
    middle.

    \b
    See it work, four hospitals on this machine:
        swarm testnet run examples/heart
    """
