"""Workers of the simulator on a Ray cluster, for those who outgrow a machine and have one.

Each worker is an actor around the very code that runs in a process here. Where the actors run,
`swarm` must be installed, and the plan's folder lie at the same path: on a shared disk, say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from swarm.errors import ConfigurationError, LocalError
from swarm.learning.supervisor.trainer_process import REPEATABLE
from swarm.testnet.workers import Channel, WorkerProcess

REPLY_S = 3600.0


class RayWorker:
    """One actor."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        remote = ray.remote(_Actor).options(runtime_env={"env_vars": REPEATABLE}, num_cpus=1)
        self._actor = remote.remote()

    def ask(self, raw: bytes) -> bytes:
        try:
            reply: bytes = self._ray.get(self._actor.answer.remote(raw), timeout=REPLY_S)
        except self._ray.exceptions.RayError as error:
            first = " ".join(str(error).split())[:300]
            raise LocalError(f"a worker on the Ray cluster is gone: {first}") from error
        return reply

    def end(self) -> None:
        self._ray.kill(self._actor)


class _Actor:
    """What runs on the cluster."""

    def __init__(self) -> None:
        from importlib import import_module

        self._worker = import_module("swarm.learning.simulation.worker").Worker()

    def answer(self, raw: bytes) -> bytes:
        reply: bytes = self._worker.answer(raw)
        return reply


@contextmanager
def start_on(address: str | None) -> Iterator[Callable[[], Channel]]:
    """How to start a worker: on the cluster at `address`, or on this machine if there is none.

    Raises ConfigurationError without Ray, or if the cluster does not answer.
    """
    if address is None:
        yield WorkerProcess
        return
    try:
        import ray
    except ImportError:
        raise ConfigurationError("--ray needs Ray: pip install 'swarm[ray]'") from None
    try:
        ray.init(address=address, logging_level="warning", log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"no Ray cluster answers at {address!r}: {error}") from None
    try:
        yield lambda: RayWorker(ray)
    finally:
        ray.shutdown()
