"""Whose turn it is among the models of one worker."""

import time

import pytest

from worker import repertoire as repertoires
from worker.jobs.contract import Tier
from worker.jobs.transport import queue_name, served_queues
from worker.repertoire import Repertoire

NAMES = ("one", "two", "three")
LONG_S = 60.0


def order(repertoire: Repertoire, tier: Tier = Tier.DEFAULT) -> list[str]:
    """The models of a tier, the one that is served first first."""
    places = {queue_name(name, tier): name for name in NAMES}
    return [places[queue] for queue in repertoire.queues() if queue in places]


def test_one_model_is_served_as_ever() -> None:
    repertoire = Repertoire(["pocket"], "large", LONG_S)
    assert repertoire.queues() == served_queues("pocket", "large")
    default = queue_name("pocket")
    assert repertoire.before(default) == served_queues("pocket", "large")[:3]


def test_tiers_come_before_models() -> None:
    repertoire = Repertoire(NAMES, "large", LONG_S)
    repertoire.took(queue_name("two"))
    queues = repertoire.queues()
    ranks = [[queues.index(queue_name(name, tier)) for name in NAMES] for tier in Tier]
    assert max(ranks[0]) < min(ranks[1])
    assert max(ranks[1]) < min(ranks[2])
    meant = [queues.index(queue_name(name, gpu_class="large")) for name in NAMES]
    assert [rank - 1 for rank in ranks[1]] == meant


def test_the_loaded_model_goes_first_until_its_turn_is_over() -> None:
    repertoire = Repertoire(NAMES, "", 0.2)
    assert order(repertoire) == ["one", "two", "three"]
    repertoire.took(queue_name("two"))
    assert order(repertoire)[0] == "two"
    time.sleep(0.15)
    repertoire.loaded("two")  # its turn begins only now
    time.sleep(0.15)
    repertoire.took(queue_name("two"))  # does not prolong it
    assert order(repertoire)[0] == "two"
    time.sleep(0.1)
    assert order(repertoire) == ["one", "three", "two"]


def test_without_turns_each_model_has_one_job_after_the_other() -> None:
    repertoire = Repertoire(NAMES, "", 0.0)
    served = []
    for _ in range(6):
        served.append(order(repertoire)[0])
        repertoire.took(queue_name(served[-1]))
    assert served == [*NAMES, *NAMES]


def test_who_overtakes_in_a_higher_tier_neither_ends_a_turn_nor_begins_one() -> None:
    repertoire = Repertoire(NAMES, "", 0.2)
    repertoire.took(queue_name("two"))
    repertoire.took(queue_name("three", Tier.PRIORITY))
    time.sleep(0.1)
    repertoire.loaded("three")  # a turn of another's is not prolonged
    assert order(repertoire) == ["two", "one", "three"]
    time.sleep(0.12)
    for name in ("three", "one", "three"):
        repertoire.took(queue_name(name, Tier.PRIORITY))
    assert order(repertoire)[0] == "one"


def test_while_nobody_waits_no_turn_passes() -> None:
    repertoire = Repertoire(NAMES, "", 0.2)
    repertoire.took(queue_name("two"))
    time.sleep(0.25)
    repertoire.nobody_waits()
    assert order(repertoire)[0] == "two"


def test_a_model_that_did_not_load_is_left_alone_longer_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repertoires, "FIRST_S", 0.2)
    repertoire = Repertoire(NAMES, "", LONG_S)
    repertoire.took(queue_name("one"))
    repertoire.failed("one")
    assert order(repertoire) == ["two", "three"]
    assert repertoire.next_up() == "two"
    repertoire.loaded("three")
    assert repertoire.next_up() == "three"
    time.sleep(0.25)
    assert order(repertoire)[0] == "one"
    repertoire.failed("one")
    time.sleep(0.25)
    assert repertoire.is_broken("one")
    repertoire.loaded("one")
    assert not repertoire.is_broken("one")
    for name in NAMES:
        repertoire.failed(name)
    assert repertoire.queues() == []
    assert repertoire.next_up() in NAMES


def test_a_model_that_never_loads_is_tried_again_after_the_longest_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repertoires, "LONGEST_S", 0.1)
    repertoire = Repertoire(NAMES, "", LONG_S)
    for _ in range(20):
        repertoire.failed("one")
    assert repertoire.is_broken("one")
    time.sleep(0.12)
    assert order(repertoire)[0] == "one"
