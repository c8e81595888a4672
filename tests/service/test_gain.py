"""The benchmark of batches: what it reads of a service, and what its figures are called."""

from typing import Any

import pytest

from service.gain import read_batches, summarise_gain
from worker.jobs import store


def test_batches_are_read_from_the_service_by_how_many_jobs(
    client: Any, hand: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_batches(client.get("/metrics").text) == {}
    monkeypatch.setattr(store, "MATE_AFTER_S", 0.0)
    orders = [{"prompt": "a red fox", "seed": seed} for seed in range(7)]
    ids = [client.post("/v1/videos", json=order).json()["id"] for order in orders]
    for mates in (1, 1, 2):
        waiting = hand.store.waiting("pocket")
        first, _ = hand.start(waiting[0])
        assert hand.store.mates(first, mates) == waiting[1 : 1 + mates]
    assert hand.store.waiting("pocket") == []
    assert read_batches(client.get("/metrics").text) == {2: 2, 3: 1}
    assert len(ids) == 7


def test_the_gain_is_the_median_time_alone_over_that_together() -> None:
    gain = summarise_gain(4, alone=[9.0, 8.0, 80.0], batched=[3.0, 4.0, 0.1], formed={4: 7, 2: 1})
    assert gain["batch_speedup"] == 3.0
    details = gain["details"]
    assert (details["batch_size"], details["batch_jobs"]) == (4, 8)
    assert details["batch_alone_s_each"] == [9.0, 8.0, 80.0]
    assert details["batches"] == {"2": 1, "4": 7}


def test_batches_that_cost_time_are_called_so() -> None:
    assert summarise_gain(2, alone=[1.0], batched=[2.0], formed={2: 1})["batch_speedup"] == 0.5
