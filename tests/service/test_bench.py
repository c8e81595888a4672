"""The benchmark's arithmetic, and its load generator against the real API."""

import asyncio
from typing import Any

import pytest

from service.bench import quantile, summarise
from service.client import JobFailed
from service.pressure import WARM_UP, submit_steadily


def test_every_planned_submission_becomes_a_job(serving: Any, store: Any) -> None:
    url = serving(max_active_per_tenant=1000).url
    latencies = asyncio.run(submit_steadily(url, "a fox", rate=100, duration_s=0.5))
    assert len(latencies) == 50
    assert len(store.live_ids()) == 50 + WARM_UP
    assert all(latency > 0 for latency in latencies)


def test_refused_submission_stops_the_measurement(serving: Any) -> None:
    url = serving(max_active_per_tenant=WARM_UP + 3).url
    with pytest.raises(JobFailed, match="429"):
        asyncio.run(submit_steadily(url, "a fox", rate=100, duration_s=0.2))


def test_waiting_for_a_connection_counts(serving: Any) -> None:
    url = serving(max_active_per_tenant=1000).url
    at_once = asyncio.run(submit_steadily(url, "a fox", rate=10_000, duration_s=0.015))
    assert max(at_once) > 3 * min(at_once)  # 150 submissions share 16 connections


def test_figures_are_what_they_are_called() -> None:
    latencies = [0.001 * rank for rank in range(1, 101)]
    pairs = [(1.2, 1.0), (1.5, 1.0), (1.1, 1.0)]
    forecasts = [(9, 10), (8, 10), (4, 10)]
    waits = [0.1] * 18 + [0.3, 0.9]
    report = summarise(latencies, pairs, waits, step_s=0.05, forecasts=forecasts)
    assert report["submit_p99_ms"] == 99.0
    assert report["overhead_ms"] == 200.0
    assert report["eta_median_error"] == 0.2
    assert report["cancel_p95_over_step_ms"] == 250.0
    assert report["details"]["overhead_ms_each"] == [200.0, 500.0, 100.0]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100)]
)
def test_quantile_is_a_value_that_was_measured(share: float, expected: int) -> None:
    assert quantile([*range(100, 0, -1)], share) == expected
