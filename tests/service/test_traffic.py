"""The mixed load: its mix, its count of errors, and what its figures are called."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from service.bench import merged
from service.client import JobFailed
from service.pressure import connections
from service.traffic import MIX, STOCK, Traffic, measure_at, summarise_traffic

ROOM = {"max_active_per_tenant": 10_000}


def test_every_planned_call_is_answered(serving: Any, store: Any) -> None:
    mixed = asyncio.run(measure_at(serving(**ROOM).url, rate=100, duration_s=1.0))
    assert mixed["mixed_errors"] == 0, mixed
    assert mixed["details"]["mixed_calls"] == 100
    assert set(mixed["details"]["mixed_p99_ms_by_call"]) == set(MIX)
    assert mixed["mixed_p99_ms"] > 0
    assert mixed["details"]["mixed_rss_mb"][0] > 1  # the API says how large it is
    assert 0 < len(store.live_ids()) < STOCK + 100


def test_refused_calls_are_counted(serving: Any, store: Any) -> None:
    url = serving(max_active_per_tenant=STOCK).url

    async def order_one_too_many() -> Traffic:
        async with connections(url) as free:
            traffic = Traffic(url, free)
            await traffic.stock()
            await traffic.call("create", 0.0)
            with pytest.raises(JobFailed, match="429"):
                traffic.forget()
            return traffic

    errors = asyncio.run(order_one_too_many()).errors
    assert errors.total() == 1
    assert "create: 429" in str(errors)


def test_figures_are_what_they_are_called() -> None:
    waits = {"retrieve": [0.001 * rank for rank in range(1, 100)], "list": [0.5], "create": []}
    mixed = summarise_traffic(waits, Counter({"list: 500": 2}), (80.0, 81.25), rate=200)
    assert mixed["mixed_p99_ms"] == 99.0
    assert mixed["mixed_errors"] == 2
    assert mixed["mixed_rss_growth_mb"] == 1.2
    assert mixed["details"]["mixed_p99_ms_by_call"] == {"retrieve": 99.0, "list": 500.0}


def test_fresh_figures_replace_the_same_ones_only() -> None:
    known = {"overhead_ms": 1.0, "mixed_errors": 3, "details": {"jobs": 9, "mixed_rate": 1}}
    fresh = {"mixed_errors": 0, "details": {"mixed_rate": 200}}
    assert merged(known, fresh) == {
        "overhead_ms": 1.0,
        "mixed_errors": 0,
        "details": {"jobs": 9, "mixed_rate": 200},
    }
