"""Where a plan's tensors live, as it writes it and as everybody reads it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import swarm
from swarm.errors import PlanError
from swarm.learning.folds import Fold
from swarm.learning.folds.reduce import REDUCES
from swarm.learning.parameters.placement import (
    Gathered,
    Local,
    Placement,
    placement_of,
    read_placement,
)

SHA = "ab" * 32
PLACES = [
    *(swarm.shared(), swarm.shared(by="site"), swarm.shared(swarm.trimmed(0.1), swarm.nesterov())),
    *(swarm.shared(swarm.krum(2)), swarm.local(), swarm.gathered()),
    *(swarm.frozen(), swarm.frozen(file="trunk", sha256=SHA)),
]
patterns = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20)


def test_the_first_pattern_that_matches_decides_and_a_star_stands_for_dots_too() -> None:
    found = placement_of({"head.*": swarm.local(), "*.norm.*": swarm.gathered(), "b?": PLACES[2]})
    assert found.place_of("head.norm.weight") == Local()
    assert found.place_of("body.1.norm.bias") == Gathered()
    assert found.place_of("b?") == PLACES[2]
    assert found.place_of("bx") == found.place_of("norm.bias") == swarm.shared()


@given(st.dictionaries(patterns, st.sampled_from(PLACES), max_size=6))
def test_every_placement_is_read_as_it_was_written(tensors: dict[str, Any]) -> None:
    placement = placement_of(tensors)
    text = placement.encode()
    assert text.isascii()
    assert text.isprintable()
    again = read_placement(text)
    assert again.encode() == text
    for name in ("a", "head.weight", *tensors):
        same = again.place_of(name) == placement.place_of(name)
        assert same or SHA in text  # a site's own option is not what all agree on


def test_people_read_what_becomes_of_each_tensor_and_no_code() -> None:
    places = {"head.*": swarm.local(), "*": swarm.shared(swarm.median(), step=swarm.adam(lr=0.02))}
    assert read_placement(placement_of(places).encode()).in_words() == [
        "head.*: stay at each site",
        f"*: {swarm.median().words}. Then adam: moves each element by its own rate (lr 0.02)",
    ]


def test_what_plans_without_places_have_is_what_programs_said_before() -> None:
    assert placement_of({}).encode() == placement_of({"*": swarm.shared()}).encode() == "mean"
    assert read_placement("mean").folds == (Fold(),)
    assert read_placement("sum").folds == (Fold(swarm.sum()),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("median", "does not know the merge 'median'.*update swarm"),
        ('[["*","elsewhere"]]', "does not know the place 'elsewhere'.*update swarm"),
        ('[["*","shared","0463726f77000000"]]', "does not know the reduce 'crow'.*update swarm"),
        ('[["*","shared","zz"]]', "does not know the merge"),
        ('[["*", "local"]]', "not written as merges are"),
        ('[["a","local"]]', "not written as merges are"),
        ('[["*","shared","046d65616e000000"]]', "not written as merges are"),  # it is "mean"
        ("[[]]", "does not know the merge"),
        ("{", "does not know the merge"),
    ],
)
def test_what_is_no_placement_of_this_release_is_refused_in_one_sentence(
    text: str, words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        read_placement(text)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([swarm.local()], "must map patterns"),
        ({"*": swarm.median()}, "must be a place"),
        ({"*": swarm.local}, "must be a place"),
        ({"": swarm.local()}, "no pattern"),
        ({3: swarm.local()}, "no pattern"),
        ({"ä*": swarm.local()}, "not plain ASCII"),
        ({f"{i}": swarm.local() for i in range(99)}, "99|100 patterns"),
    ],
)
def test_what_a_plan_cannot_say_is_refused_by_name(tensors: Any, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        placement_of(tensors)


def test_a_frozen_file_has_its_digest() -> None:
    with pytest.raises(PlanError, match="a file and its sha256, or neither"):
        swarm.frozen(file="trunk")
    with pytest.raises(PlanError, match="'abc' is no SHA-256"):
        swarm.frozen(file="trunk", sha256="abc")


def test_folds_say_themselves_which_rules_they_need() -> None:
    krum = placement_of({"head.*": swarm.local(), "*": swarm.shared(swarm.krum(1))})
    assert (krum.level("auto"), Placement().level("auto"), krum.level("held")) == (
        "full",
        "held",
        "held",
    )
    krum.check(5, "full")
    with pytest.raises(PlanError, match=r"krum needs 5 updates.*set min_peers to 5"):
        krum.check(4, "full")
    with pytest.raises(PlanError, match="set verify to 'full' instead of 'shared'"):
        krum.check(5, "shared")


def test_every_reduce_can_be_shared() -> None:
    assert {kind.name for kind in REDUCES} <= set(swarm.__all__)
