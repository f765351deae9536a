"""The trainer processes of a node: one for each plan's code, from the first use on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from swarm.box.description import Report
from swarm.learning.code.import_reader import Import, read_imports
from swarm.learning.supervisor.supervisor import Trainer, TrainerConfig, open_trainer
from swarm.node.consent.policy import SitePolicy, require
from swarm.node.home.config import NodeConfig, data_path, readable_paths
from swarm.node.plans.library import Library
from swarm.types import Digest

IDLE_S = 30.0
"""Longer than the pauses between a person's commands about one plan."""
LOOK_EVERY_S = 5.0


@dataclass
class Trainers:
    """They end with `resources`. No plan's code runs at this node but by `of`."""

    directory: Path
    config: NodeConfig
    library: Library
    resources: AsyncExitStack
    sandbox: Report
    """How plan code is boxed on this machine."""
    policy: SitePolicy
    _opened: dict[Digest, Trainer] = field(default_factory=dict)
    _holders: dict[Digest, Trainer] = field(default_factory=dict)

    async def of(self, code: Digest) -> Trainer:
        """The trainer for the plan with this code.

        Raises ConfigurationError if the code is not here, or imports what this site does not allow.
        """
        if code not in self._opened:
            if self.policy.limits_imports:
                found = await trio.to_thread.run_sync(self.imports_of, code)
                require(self.policy.of_imports(found))
            opened = open_trainer(self._config_of(code))
            self._opened[code] = await self.resources.enter_async_context(opened)
        return self._opened[code]

    async def for_role(self, code: Digest) -> Trainer:
        """The process that holds the role of the plan with this code: it sees no rows."""
        if code not in self._holders:
            await self.of(code)  # which looks whether this site allows what the code imports
            own = self._config_of(code)
            folder = own.workspace.with_name(f"{own.workspace.name}-role")
            opened = open_trainer(replace(own, workspace=folder, data=None, read=()))
            self._holders[code] = await self.resources.enter_async_context(opened)
        return self._holders[code]

    async def end_idle(self, is_trained: Callable[[Digest], bool]) -> None:
        """End the processes of plans that are over, or that were only looked at, for as long as the
        node runs. Whatever still needs one, such as an evaluation, starts another."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            for code, trainer in [*self._opened.items(), *self._holders.items()]:
                if not is_trained(code):
                    await trainer.end_idle(IDLE_S)

    async def dry_run_of(self, code: Digest) -> TrainerConfig:
        """What a dry run of the plan with this code is to be started with."""
        if self.policy.limits_imports:
            require(self.policy.of_imports(await trio.to_thread.run_sync(self.imports_of, code)))
        return self._config_of(code)

    def imports_of(self, code: Digest) -> list[Import]:
        """What a plan's code imports, without running it. Blocks; raises ConfigurationError."""
        return read_imports(self.library.read(code))

    def _config_of(self, code: Digest) -> TrainerConfig:
        training = self.config.training
        return TrainerConfig(
            plan=self.library.path(code),
            digest=code,
            site=self.config.name,
            workspace=self.directory / "trainer" / code.hex(),
            data=data_path(self.directory, self.config),
            read=readable_paths(self.directory, self.config),
            options=self.config.data.options,
            device=training.device,
            processes=training.processes,
            seed=training.seed,
            log=self.directory / "trainer.log",
            sandbox=training.sandbox,
            imports=self.policy.policy.imports,
        )
