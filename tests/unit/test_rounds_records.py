"""What a node remembers of its rounds, with members by name and omissions by reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.protocol.state import Candidate, Omission, Outcome, Round, RoundStatus
from swarm.rounds.records import KEPT_ROUNDS, MAX_LINES, Meters, Records, known
from swarm.types import Digest, MemberId

MODEL = Digest(b"\x07" * 32)
NAMES = {MemberId(0): "basel", MemberId(2): "kyoto"}


def final_round(reasons: bytes, omitted: int = 0b100) -> tuple[Round, Candidate]:
    candidate = Candidate(
        MemberId(0), Outcome(MODEL, omitted), attesters=0b11, posted_at=9, reasons=reasons
    )
    round = Round(4, 1, RoundStatus.FINAL, submitted=0b111, candidates=[candidate])
    return round, candidate


def test_a_record_names_who_led_who_contributed_and_who_was_left_out(tmp_path: Path) -> None:
    records = Records(tmp_path / "rounds.jsonl")
    round, candidate = final_round(bytes([Omission.NOT_FINITE]))
    records.opened(round, Meters(10.0, 1.0, 100, 200))
    records.finalised(round, candidate, Meters(12.5, 1.5, 150, 290))
    (record,) = records.as_list(NAMES)
    assert record["leader"] == "basel"
    assert record["contributors"] == ["basel", "member 1"]
    assert record["omitted"] == {"kyoto": "not finite"}
    assert record["model"] == "0x" + "07" * 32
    assert (record["total_s"], record["exchange_s"]) == (2.5, 0.5)
    assert (record["bytes_sent"], record["bytes_received"]) == (50, 90)


def test_records_outlive_the_node(tmp_path: Path) -> None:
    records = Records(tmp_path / "rounds.jsonl")
    round, candidate = final_round(bytes([Omission.WRONG_DIGEST]))
    records.finalised(round, candidate, Meters(0.0, 0.0, 0, 0))
    again = Records(tmp_path / "rounds.jsonl")
    assert again.as_list(NAMES) == records.as_list(NAMES)
    assert again.models() == {4: MODEL}


def test_a_score_that_cannot_be_given_costs_no_record_at_a_restart(tmp_path: Path) -> None:
    records = Records(tmp_path / "rounds.jsonl")
    records.at(1).metrics = {"validation": known({"auc": float("nan"), "loss": 0.5})}
    records.at(2).metrics = {"test": {"auc": float("nan")}}  # as an older release wrote it
    records.at(3).loss = float("inf")
    records.save()
    again = Records(tmp_path / "rounds.jsonl")
    assert again.rounds[1].metrics == {"validation": {"auc": None, "loss": 0.5}}
    assert again.rounds[2].metrics == {"test": {"auc": None}}
    assert (sorted(again.rounds), again.rounds[3].loss) == ([1, 2, 3], None)


def test_a_reason_that_this_release_does_not_know_is_kept_as_its_number(tmp_path: Path) -> None:
    records = Records(tmp_path / "rounds.jsonl")
    round, candidate = final_round(bytes([200]))
    records.finalised(round, candidate, Meters(0.0, 0.0, 0, 0))
    assert records.as_list(NAMES)[0]["omitted"] == {"kyoto": "reason 200"}


def test_a_line_that_a_kill_cut_short_costs_neither_those_before_it_nor_those_after(
    tmp_path: Path,
) -> None:
    records = Records(tmp_path / "rounds.jsonl")
    for number in (1, 2):
        records.at(number)
        records.save()
    with (tmp_path / "rounds.jsonl").open("ab") as file:
        file.write(b'{"round": 3, "atte')
    again = Records(tmp_path / "rounds.jsonl")
    again.at(4)
    again.save()
    kept = Records(tmp_path / "rounds.jsonl").as_list({})
    assert [record["round"] for record in kept] == [1, 2, 4]


def test_what_is_saved_is_what_has_changed_and_all_of_it(tmp_path: Path) -> None:
    records = Records(tmp_path / "rounds.jsonl")
    for number in range(100):
        records.at(number)
    records.save()
    whole = (tmp_path / "rounds.jsonl").stat().st_size
    records.at(7).train_s = 2.5
    records.at(99).loss = 0.25
    records.save()
    assert (tmp_path / "rounds.jsonl").stat().st_size < 1.05 * whole
    assert Records(tmp_path / "rounds.jsonl").as_list({}) == records.as_list({})


def test_a_disk_that_takes_no_records_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = Records(tmp_path / "rounds.jsonl")
    records.at(1)
    records.save()
    (tmp_path / "rounds.jsonl").rename(tmp_path / "away")
    (tmp_path / "rounds.jsonl").mkdir()  # whose writing fails, for root as well
    records.at(2)
    records.save()
    assert "cannot write" in caplog.text
    (tmp_path / "rounds.jsonl").rmdir()
    records.save()
    assert Records(tmp_path / "rounds.jsonl").as_list({}) == records.as_list({})


def test_the_file_of_records_is_bounded_however_often_they_change(tmp_path: Path) -> None:
    records = Records(tmp_path / "rounds.jsonl")
    for _ in range(MAX_LINES + 2):
        records.at(1).train_s += 0.5
        records.save()
    assert len((tmp_path / "rounds.jsonl").read_bytes().splitlines()) == 2
    assert Records(tmp_path / "rounds.jsonl").as_list({}) == records.as_list({})


def test_the_first_look_at_a_closed_round_is_what_its_bytes_are_counted_from(
    tmp_path: Path,
) -> None:
    records = Records(tmp_path / "rounds.jsonl")
    closed = Round(4, 1, RoundStatus.CLOSED, submitted=0b111)
    records.closed(closed, Meters(0.0, 0.0, 100, 200))
    records.closed(closed, Meters(1.0, 0.0, 170, 290))
    record = records.at(4)
    assert (record.sent_by_close_bytes, record.received_by_close_bytes) == (100, 200)
    records.closed(Round(4, 2, RoundStatus.CLOSED, submitted=0b111), Meters(2.0, 0.0, 300, 400))
    assert (record.sent_by_close_bytes, record.received_by_close_bytes) == (300, 400)


def test_a_status_tells_the_newest_rounds_and_the_file_keeps_no_more_than_its_bound(
    tmp_path: Path,
) -> None:
    records = Records(tmp_path / "rounds.jsonl")
    for number in range(KEPT_ROUNDS + 5):
        records.at(number)
    assert [r["round"] for r in records.as_list({}, 2)] == [KEPT_ROUNDS + 3, KEPT_ROUNDS + 4]
    records.save()
    assert len(records.rounds) == KEPT_ROUNDS
    again = Records(tmp_path / "rounds.jsonl")
    assert [r["round"] for r in again.as_list({})] == list(range(5, KEPT_ROUNDS + 5))
