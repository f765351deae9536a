"""What a node remembers of its rounds, with members by name and omissions by reason."""

from __future__ import annotations

from pathlib import Path

from swarm.node.records import KEPT_ROUNDS, Meters, Records
from swarm.protocol.state import Candidate, Omission, Round, RoundStatus
from swarm.types import Digest, MemberId

MODEL = Digest(b"\x07" * 32)
NAMES = {MemberId(0): "basel", MemberId(2): "kyoto"}


def final_round(reasons: bytes, omitted: int = 0b100) -> tuple[Round, Candidate]:
    candidate = Candidate(MemberId(0), MODEL, omitted, attesters=0b11, posted_at=9, reasons=reasons)
    round = Round(4, 1, RoundStatus.FINAL, submitted=0b111, candidates=[candidate])
    return round, candidate


def test_a_record_names_who_led_who_contributed_and_who_was_left_out(tmp_path: Path) -> None:
    records = Records(tmp_path / "rounds.json")
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
    records = Records(tmp_path / "rounds.json")
    round, candidate = final_round(bytes([Omission.WRONG_DIGEST]))
    records.finalised(round, candidate, Meters(0.0, 0.0, 0, 0))
    again = Records(tmp_path / "rounds.json")
    assert again.as_list(NAMES) == records.as_list(NAMES)
    assert again.models() == {4: MODEL}


def test_a_reason_that_this_release_does_not_know_is_kept_as_its_number(tmp_path: Path) -> None:
    records = Records(tmp_path / "rounds.json")
    round, candidate = final_round(bytes([200]))
    records.finalised(round, candidate, Meters(0.0, 0.0, 0, 0))
    assert records.as_list(NAMES)[0]["omitted"] == {"kyoto": "reason 200"}


def test_a_damaged_file_of_records_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "rounds.json").write_text('[{"round": ')
    assert Records(tmp_path / "rounds.json").as_list({}) == []


def test_the_first_look_at_a_closed_round_is_what_its_bytes_are_counted_from(
    tmp_path: Path,
) -> None:
    records = Records(tmp_path / "rounds.json")
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
    records = Records(tmp_path / "rounds.json")
    for number in range(KEPT_ROUNDS + 5):
        records.at(number)
    assert [r["round"] for r in records.as_list({}, 2)] == [KEPT_ROUNDS + 3, KEPT_ROUNDS + 4]
    records.save()
    assert len(records.rounds) == KEPT_ROUNDS
    again = Records(tmp_path / "rounds.json")
    assert [r["round"] for r in again.as_list({})] == list(range(5, KEPT_ROUNDS + 5))
