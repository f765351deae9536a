"""The command line of the campaigns."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from tests.campaigns.results import ROOT, campaigns, can_tell, fault_of, record, strays

TOOLS = {
    "simulate": "harness.simulate",
    "masked": "harness.simulate_masked",
    "faults": "harness.faults.__main__",
    "fuzz": "harness.fuzz.__main__",
    "mutants": "harness.mutation.__main__",
    "install": "harness.install",
    "scientist": "harness.clumsy_scientist",
    "operator": "harness.clumsy_operator",
    "compose": "harness.compose.__main__",
    "clients": "harness.clients.__main__",
    "namespaces": "harness.namespaces.__main__",
    "whole": "harness.whole",
}


def run(tool: str, arguments: list[str]) -> int:
    """One of the tools; its exit status."""
    return int(import_module(TOOLS[tool]).main(arguments) or 0)


def show() -> int:
    """What there is, and how fresh each result is; 1 if any is not."""
    listed = campaigns().values()
    if not can_tell():
        print("this is no repository with its whole history: the age of results is not looked at")
    faults = {campaign: fault_of(campaign) for campaign in listed}
    width = max(len(campaign.name) for campaign in faults)
    for campaign, fault in faults.items():
        is_there = campaign.result_path.exists()
        word = fault or ("holds" if is_there else f"planned: {campaign.planned}")
        print(f"{campaign.name:{width}}  {word}\n{'':{width}}    {campaign.about}")
    for name in strays(listed):
        print(f"results/{name} belongs to no campaign")
    return 1 if any(faults.values()) or strays(listed) else 0


def main(arguments: list[str]) -> int:
    """Do what the first argument says; the exit status."""
    # For this process and every one that a tool starts.
    tests = str(ROOT / "tests")
    sys.path.insert(0, tests)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
    match arguments:
        case []:
            show()
            return 0
        case ["check"]:
            return show()
        case ["record", *names] if names and set(names) <= campaigns().keys():
            held = [record(campaigns()[name], run) for name in names]
            return 0 if all(held) else 1
        case [tool, *rest] if tool in TOOLS:
            return run(tool, rest)
    print(
        f"usage: python -m tests.campaigns [check | record CAMPAIGN… | {' | '.join(TOOLS)} …]\n"
        f"campaigns: {', '.join(campaigns())}",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
