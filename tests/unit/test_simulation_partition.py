"""Dealing rows to clients: each row once, by the seed alone, alike or not as asked."""

from __future__ import annotations

import numpy as np
import pytest

from swarm.errors import ConfigurationError
from swarm.learning.simulation.partition import Partition, PartitionRule, read_rule

LABELS = np.repeat([0.0, 1.0, 2.0], [500, 300, 200])


def deal(rule: str, clients: int = 50, seed: int = 0, least: int = 5) -> list[np.ndarray]:  # type: ignore[type-arg]
    partition = Partition(LABELS, clients, read_rule(rule), seed, least)
    return [partition.rows_of(client) for client in range(clients)]


@pytest.mark.parametrize("rule", ["iid", "dirichlet:0.3", "dirichlet:0.01", "dirichlet:100"])
def test_every_row_has_exactly_one_client_and_clients_have_as_many_rows(rule: str) -> None:
    dealt = deal(rule, clients=48)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(1000))
    assert {len(rows) for rows in dealt} == {20, 21}


def test_the_smaller_the_number_the_less_alike_are_clients() -> None:
    def spread(rule: str) -> float:
        shares = [np.mean(LABELS[rows] == 0) for rows in deal(rule)]
        return float(np.std(shares))

    assert spread("iid") < 0.15 < spread("dirichlet:1") < spread("dirichlet:0.1")


def test_the_seed_alone_decides_who_has_which_rows() -> None:
    assert all(map(np.array_equal, deal("dirichlet:0.3"), deal("dirichlet:0.3")))
    assert not all(map(np.array_equal, deal("dirichlet:0.3"), deal("dirichlet:0.3", seed=1)))


def test_too_few_rows_are_drawn_with_repetition_and_that_is_told() -> None:
    partition = Partition(LABELS, 5000, PartitionRule("dirichlet", 0.3), 0, least=7)
    assert partition.repeats
    rows = [partition.rows_of(client) for client in (0, 1, 4999)]
    assert [len(each) for each in rows] == [7, 7, 7]
    assert np.array_equal(rows[0], partition.rows_of(0))
    assert not Partition(LABELS, 100, PartitionRule("iid"), 0, least=7).repeats


def test_a_label_that_is_a_measurement_is_dealt_by_its_size() -> None:
    values = np.linspace(0, 1, 1000)
    partition = Partition(values, 10, PartitionRule("dirichlet", 0.5), 0, 5)
    assert sorted(np.concatenate([partition.rows_of(c) for c in range(10)])) == list(range(1000))


@pytest.mark.parametrize("text", ["", "iid:1", "dirichlet", "dirichlet:0", "dirichlet:nan", "x:1"])
def test_what_is_no_way_to_deal_is_refused_with_one_that_is(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"dirichlet:0\.3"):
        read_rule(text)
