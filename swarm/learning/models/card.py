"""A model's card: what it is, who made it from what, how good it is; as JSON and as Markdown.

The card says what its writer knows. What members have agreed on (the digests, the rounds, the
contributors) can be compared with the chain; scores are told with the rows on which they were made.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from swarm.errors import UNREADABLE, ConfigurationError
from swarm.learning.code.bundle import Bundle

MAX_CARD_BYTES = 2**20
Text = Annotated[str, msgspec.Meta(max_length=10_000)]


class CardSite(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A member that takes part, and how many training rows it has declared at most."""

    name: Text
    rows: int
    contributed: bool
    """Whether its update is in this very model."""


class Score(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One metric, with its interval of 95 % where there is one; None where it cannot be given."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Scores(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Metrics by name, on rows that `rows` describes in words."""

    rows: Text
    metrics: dict[Text, Score]


class CardPrivacy(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Differential privacy per training row: what the plan promises over all its rounds, and what
    the rounds up to this model have spent, at the site with most."""

    epsilon: float
    delta: float
    spent: float


class Card(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Digests and accounts are `0x` and hexadecimal; empty where there is none."""

    format: Literal[1] = 1
    name: Text
    about: Text = ""
    """What the plan's code says of itself, in its first words."""
    licence: Text = ""
    chain_id: int = 0
    contract: Text = ""
    plan_id: int = 0
    plan: Text
    """The digest of the plan's code."""
    base: Text = ""
    """The digest of the model with which the plan began."""
    model: Text = ""
    """The digest of the model as the members agreed on it: of what travels, in its wire types."""
    own_parts: bool = False
    """Whether parts that never leave the site are in it: then it is that site's, and not for
    others."""
    statistics: Text = ""
    chain_round: int = 0
    round: int
    rounds: int
    sites: tuple[CardSite, ...] = ()
    scores: tuple[Scores, ...] = ()
    privacy: CardPrivacy | None = None
    files: dict[Text, Text] = {}
    """The SHA-256 of each file beside the card; of the plan's code under "plan" its digest."""
    made_by: Text = ""
    """The release of swarm."""


_cards = msgspec.json.Decoder(Card)


def encode_card(card: Card) -> bytes:
    """The one way to write a card as JSON."""
    return msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"


def decode_card(raw: bytes, place: str) -> Card:
    """Read a card; `place` says from where. Raises ConfigurationError if it is none."""
    if len(raw) > MAX_CARD_BYTES:
        raise ConfigurationError(f"{place} has {len(raw)} bytes, too many for a card")
    try:
        return _cards.decode(raw)
    except UNREADABLE as error:
        raise ConfigurationError(f"{place} is no card of a model: {error}") from None


def describe_plan(code: Bundle) -> str:
    """The first paragraph of what the plan's code says of itself; nothing of it runs."""
    try:
        said = ast.get_docstring(ast.parse(code.files["plan.py"])) or ""
    except (SyntaxError, ValueError):
        return ""
    return " ".join(said.partition("\n\n")[0].split())


def write_markdown(card: Card) -> str:
    """The card for people."""
    parts = [
        f"# {plain(card.name)}",
        plain(card.about),
        "```console\n$ swarm predict FOLDER patients.csv --out predictions.csv\n```",
        "## Where it comes from",
        table(
            ("", ""),
            [
                ("plan", f"{card.plan_id or ''} `{card.plan}`".strip()),
                ("began with", f"`{card.base}`" if card.base else "–"),
                ("model", f"`{card.model}`" if card.model else "made without a network"),
                ("statistics", f"`{card.statistics}`" if card.statistics else "none"),
                ("round", f"{card.round} of {card.rounds}"),
                ("chain", f"{card.chain_id}, contract `{card.contract}`" if card.chain_id else "–"),
                *(
                    [("for", "the site that wrote it: parts of it never leave that site")]
                    if card.own_parts
                    else []
                ),
                ("privacy of each training row", _privacy(card.privacy)),
                ("licence", plain(card.licence) or "not stated: ask the members"),
                ("written by", f"swarm {card.made_by}"),
            ],
        ),
    ]
    if card.sites:
        rows = [
            (plain(s.name), str(s.rows) if s.rows else "–", "yes" if s.contributed else "no")
            for s in card.sites
        ]
        parts += [
            "## Data",
            "Rows are those that each site declared for training, at most. They never left it.",
            table(("site", "training rows", "in this model"), rows),
        ]
    if card.scores:
        parts.append("## How good it is")
        for scores in card.scores:
            shown = [(plain(name), _shown(score)) for name, score in scores.metrics.items()]
            parts += [f"On {plain(scores.rows)}:", table(("metric", "value"), shown)]
    parts += [
        "## Files",
        table(("file", "SHA-256"), [(f"`{n}`", f"`{d}`") for n, d in card.files.items()]),
        "`plan` is the code, under the digest to which the members consented.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _privacy(told: CardPrivacy | None) -> str:
    if told is None:
        return "no differential privacy"
    return f"ε = {told.spent:.3g} of {told.epsilon:g}, δ = {told.delta:g}"


def _shown(score: Score) -> str:
    if score.value is None:
        return "–"
    if score.low is None or score.high is None:
        return f"{score.value:.4g}"
    return f"{score.value:.4g} ({score.low:.4g} to {score.high:.4g})"


def table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plain(text: str) -> str:
    """Names are others': none of them may be read as Markdown, or go over its line."""
    line = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in line)
