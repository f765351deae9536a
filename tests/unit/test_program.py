"""Programs of stages: where a round stands, what follows it, and their one encoding."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarm.errors import ConfigurationError, PlanError
from swarm.learning.plans.stages import Planned, train_and_select
from swarm.node.plans.programs import check_program
from swarm.protocol.program import (
    MAX_BLOB_BYTES,
    Program,
    Stage,
    build,
    digest_of,
    federated_averaging,
    parse,
)
from swarm.protocol.state import MODEL_SLOT, STATISTICS_SLOT, Plan, Rules
from swarm.types import Digest, MemberId, PlanId, to_hex

WITH = federated_averaging(3, statistics=True)
WITHOUT = federated_averaging(3)


def test_rounds_of_the_chain_are_numbered_through_and_trainers_count_within_the_stage() -> None:
    found = [WITH.place(n) for n in range(1, 5)]
    assert [(p.index, p.stage.name, p.within) for p in found if p] == [
        (1, "statistics", 1),
        (2, "training", 1),
        (2, "training", 2),
        (2, "training", 3),
    ]
    assert WITH.place(0) is WITH.place(5) is None
    assert (WITH.rounds, WITHOUT.rounds) == (4, 3)


def test_the_stage_that_follows_is_nought_after_the_last_round() -> None:
    assert [WITH.next_after(n) for n in range(1, 5)] == [2, 2, 2, 0]
    assert [WITHOUT.next_after(n) for n in range(1, 4)] == [1, 1, 0]


def test_people_read_statistics_and_then_rounds_from_1() -> None:
    titles = [WITH.title_of(n) for n in range(1, 6)]
    assert titles == ["statistics", "round 1", "round 2", "round 3", "round 5 of the chain"]
    assert [WITH.number_of(n) for n in range(1, 6)] == [None, 1, 2, 3, None]
    assert (WITH.training_rounds, WITHOUT.training_rounds) == (3, 3)


def test_statistics_and_models_are_different_outputs() -> None:
    assert [stage.slot for stage in WITH.stages] == [STATISTICS_SLOT, MODEL_SLOT]


def test_the_digests_of_todays_programs_stay() -> None:
    assert WITHOUT.blob == (
        b'{"stages":[{"name":"training","task":"train","merge":"mean","rounds":3}]}'
    )
    assert [to_hex(program.digest)[:10] for program in (WITHOUT, WITH)] == GOLDEN


GOLDEN = ["0x782e0653", "0xcc8d5cbe"]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "x"},
        {"task": "x"},
        {"merge": "x"},
        {"rounds": 4},
        {"slot": 2},
        {"written": 5},
        {"before": 5},
        {"epochs": 5},
        {"clip": 0.5},
        {"reads_rows": True},
    ],
)
def test_every_field_of_a_stage_is_in_the_digest(change: dict[str, Any]) -> None:
    other = Program((replace(WITHOUT.stages[0], **change),))
    assert other.digest != WITHOUT.digest


def test_no_two_programs_share_an_encoding() -> None:
    one = Program((Stage("ab", "c", "d", 1),))
    other = Program((Stage("a", "bc", "d", 1),))
    assert one.blob != other.blob


LONG = Program((*WITH.stages, Stage("personal", "personalise", "sum", 1, 3, epochs=2)))

words = st.from_regex(r"[a-z][a-z0-9 _-]{0,31}", fullmatch=True)
counts = st.integers(0, 9)
stages = st.builds(
    Stage,
    words,
    words,
    st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=300),
    st.integers(1, 1000),
    st.integers(0, 3),
    counts,
    counts,
    counts,
)


@given(st.lists(stages, min_size=1, max_size=5))
def test_every_program_is_read_as_it_was_written(drawn: list[Stage]) -> None:
    program = Program(tuple(drawn))
    assert parse(program.blob) == program
    assert digest_of(program.blob) == program.digest


@given(st.binary(max_size=200))
def test_bytes_that_are_no_program_are_refused_in_words(blob: bytes) -> None:
    for raw in (blob, b"{" + blob, b"\2" + blob):
        with pytest.raises(PlanError, match="program"):
            parse(raw)


@given(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from([WITH, LONG]))
def test_a_program_with_a_changed_byte_is_another_or_none(
    at: int, byte: int, program: Program
) -> None:
    blob = bytearray(program.blob)
    at %= len(blob)
    if blob[at] == byte:
        return
    blob[at] = byte
    try:
        other = parse(bytes(blob))
    except PlanError:
        return
    assert other != program
    assert other.digest != program.digest


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (b"", "truncated"),
        (WITH.blob[:-1], "truncated"),
        (WITH.blob + b"\0", "trailing characters"),
        (b"{" + b" " + LONG.blob[1:], "not written as programs are"),
        (msgspec.json.encode({"stages": []}), "length"),
        (LONG.blob.replace(b'"epochs"', b'"streams"'), "`streams`.*update swarm"),
        (LONG.blob.replace(b'"rounds":3', b'"clip":0.0,"rounds":3'), "> 0"),
        (LONG.blob.replace(b'"rounds":3', b'"rounds":0'), ">= 1"),
        (LONG.blob.replace(b'"rounds":3', b'"rounds":999999'), "has more than 1000000"),
        (LONG.blob.replace(b'"slot":3', b'"slot":4'), "<= 3"),
        (LONG.blob.replace(b'"personal"', '"perso\u202enal"'.encode()), "matching"),
        (b"{" + bytes(MAX_BLOB_BYTES), "is more than"),
    ],
)
def test_what_no_program_can_say_is_refused_by_name(blob: bytes, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        parse(blob)


def test_a_proposer_may_choose_the_rounds_and_the_program_shows_it() -> None:
    fewer = WITH.with_rounds(2)
    assert [(s.rounds, s.written) for s in fewer.stages] == [(1, 0), (2, 3)]
    assert fewer.with_rounds(3) == WITH
    further = WITH.with_rounds(3, before=20)
    assert [further.title_of(n) for n in (1, 2, 4)] == ["statistics", "round 21", "round 23"]
    assert (further.rounds, further.training_rounds) == (4, 23)
    place = further.place(2)
    assert place is not None
    assert place.within == 21
    twice = Program((WITHOUT.stages[0], WITHOUT.stages[0]))
    with pytest.raises(PlanError, match=r"training, training.*change them in plan\.py"):
        twice.with_rounds(5)
    with pytest.raises(PlanError, match="<= 1000000"):
        WITH.with_rounds(1_000_001)
    with pytest.raises(PlanError, match="1000001 rounds has more than 1000000"):
        WITH.with_rounds(1_000_000)


def test_a_training_that_choices_divide_keeps_them_as_far_apart_when_its_rounds_change() -> None:
    code = program_of_stages(*train_and_select("auc", rounds=12, every=5, stop=True))
    fewer = code.with_rounds(7)
    assert [(s.name, s.rounds, s.follows, s.written) for s in fewer.stages[1:]] == [
        ("training", 5, 0, 12),
        ("select after 5", 1, 0, 0),
        ("training", 2, 5, 0),
        ("select after 7", 1, 0, 0),
    ]
    assert fewer.with_rounds(12) == code.with_rounds(12) == code
    further = code.with_rounds(6, before=10)
    assert [s.name for s in further.stages[2::2]] == ["select after 15", "select after 16"]
    assert all(stage.ends for stage in further.stages[2::2])
    assert [further.title_of(n) for n in (2, 6, 8)] == ["round 11", "round 15", "round 16"]
    place = further.place(8)
    assert place is not None
    assert place.within == 16, "seeds and schedules go on"
    check_program(plan_with(further), further, code)
    with pytest.raises(PlanError, match="a choice after every 5 are 81 stages, and 64 are the mo"):
        code.with_rounds(200)
    other = replace(code.stages[3], merge="sum")
    odd = Program((*code.stages[:3], other, *code.stages[4:]))
    with pytest.raises(PlanError, match=r"training, training, training.*change them in plan\.py"):
        odd.with_rounds(5)


def program_of_stages(*planned: Planned) -> Program:
    fields = [
        {
            "name": each.name,
            "task": each.task,
            "merge": each.merge or "mean",
            "rounds": each.rounds,
            "slot": each.slot,
            "follows": each.follows,
            "ends": each.ends,
        }
        for each in planned
    ]
    return Program((WITH.stages[0], *build(fields).stages))


def plan_with(program: Program, rounds: int | None = None) -> Plan:
    digests = (Digest(b"\1" * 32), program.digest, Digest(b"\3" * 32))
    rules = Rules(program.rounds if rounds is None else rounds, 2)
    return Plan(PlanId(4), MemberId(0), "p", *digests, rules)


def test_a_program_is_agreed_on_if_it_is_what_the_code_says_but_for_rounds() -> None:
    for proposed in (WITH, WITH.with_rounds(9), WITH.with_rounds(3, before=3)):
        check_program(plan_with(proposed), proposed, WITH)


LATER = '[["head.*","local"],["*","shared","0463726f77000000"]]'
"""A placement with a fold of a later release."""


@pytest.mark.parametrize(
    ("proposed", "words"),
    [
        (WITHOUT, r"plan 4 \(p\) has stages other than its code says"),
        (Program((replace(WITH.stages[0], rounds=2), WITH.stages[1])), "stages other"),
        (Program((WITH.stages[0], replace(WITH.stages[1], rounds=9))), "stages other"),
        (Program((WITH.stages[0], replace(WITH.stages[1], merge="sum"))), "stages other"),
        (
            Program((*WITH.stages, Stage("scores", "forecast", "sum", 1, 3))),
            "does not know the task 'forecast' of the plan's stage 'scores': update swarm",
        ),
        (
            Program((WITH.stages[0], replace(WITH.stages[1], merge="median of medians"))),
            "does not know the merge 'median of medians'",
        ),
        (
            Program((WITH.stages[0], replace(WITH.stages[1], merge=LATER))),
            r"does not know the reduce 'crow' that the plan asks for: update swarm before you con",
        ),
    ],
)
def test_a_program_that_the_code_does_not_say_is_refused_in_one_sentence(
    proposed: Program, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check_program(plan_with(proposed), proposed, WITH)


def test_a_program_that_is_not_the_chains_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="stages other"):
        check_program(plan_with(WITHOUT), WITH, WITH)
    with pytest.raises(ConfigurationError, match="may run 9 rounds, and its stages have 4"):
        check_program(plan_with(WITH, rounds=9), WITH, WITH)
