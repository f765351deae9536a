"""Coverage-guided inputs for one decoder that waits for nothing: `python -m harness.guided NAME
SECONDS SEED`.

atheris (libFuzzer) keeps every input that reaches a branch of `swarm` which none before it did, and
goes on from there, beginning with what real code sends. It ends its process with a traceback and
the input at the first thing that is no refusal. The fuzzer's own draws know what values mean; these
find what nobody thought of.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Awaitable
from pathlib import Path

import atheris  # type: ignore[import-untyped]
import trio

with atheris.instrument_imports(include=["swarm"]):
    from harness.fuzz import all_targets
    from harness.fuzz.campaign import Session

LARGEST_BYTES = 4096


def run_dry(work: Awaitable[str]) -> str:
    """The result of work that never waits."""
    try:
        next(iter(work.__await__()))
    except StopIteration as done:
        return str(done.value)
    raise AssertionError("it waits for something else than its input")


def main(name: str, seconds: str, seed: str) -> None:
    """Ends the process."""
    targets = {target.name: target for target in all_targets() if target.is_pure}
    with tempfile.TemporaryDirectory() as folder:
        corpus, work = Path(folder, "corpus"), Path(folder, "work")
        corpus.mkdir()
        work.mkdir()

        async def opened() -> Session:
            async with targets[name].open(work) as session:
                return session

        session = trio.run(opened)
        for number, sample in enumerate(session.samples()):
            (corpus / str(number)).write_bytes(sample)
        options = [
            *(sys.argv[0], f"-max_total_time={seconds}", f"-seed={seed}", "-verbosity=0"),
            *(f"-max_len={LARGEST_BYTES}", "-timeout=10", f"-artifact_prefix={work}/", str(corpus)),
        ]
        atheris.Setup(options, lambda data: run_dry(session.offer(data)))
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
