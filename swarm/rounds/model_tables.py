"""What each site's rows say of each site's model, as lines for people: in a terminal, in a browser.

Pure, and without numpy: whoever only shows it does not wait for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Lines = list[tuple[list[str], list[list[str]]]]


def lines_of(table: Mapping[str, Any]) -> Lines:
    """By metric, the headings and the lines of what `learning.metrics.matrix` says: figures with
    their numbers of rows, and with 95% intervals where rows of several sites are added up."""
    found = []
    for metric, told in table["metrics"].items():
        sites = list(told["models"][0]["sites"]) if told["models"] else []
        lines = [
            [
                "shared model" if each["is_shared"] else f"{each['model']}'s",
                *(_number(each["sites"][site]) for site in sites),
                _whole(each["all"]),
                "" if each["is_shared"] else _whole(each["others"]),
            ]
            for each in told["models"]
        ]
        if told["own"]["value"] is not None:
            blank = ["" for _ in sites]
            lines.append(["each its own", *blank, _whole(told["own"]), ""])
        found.append(([metric, *sites, "all", "all but its own"], lines))
    return found


def _number(figure: Mapping[str, Any]) -> str:
    return f"{_value(figure['value'])} ({figure['rows']})"


def _whole(figure: Mapping[str, Any]) -> str:
    ends = ""
    if figure["low"] is not None:
        ends = f", {_value(figure['low'])} to {_value(figure['high'])}"
    return f"{_value(figure['value'])}{ends} ({figure['rows']})"


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
