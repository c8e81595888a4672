"""Mixed reads and writes at a constant rate: how long answers take, and whether the API grows.

An open loop from a process of its own: each call has its moment, whatever the answers before it
took, and its time runs from that moment. No model runs; jobs are ordered, looked at, listed,
cancelled and deleted.
"""

import asyncio
import json
import math
import re
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypedDict
from urllib.parse import urlsplit

from service.bench import OPEN_CAPS, PROMPT, in_ms, quantile
from service.client import JobFailed
from service.pressure import Connection, connections
from service.trial import trial_service
from service.wire import PREFIX

# Of a hundred calls. As many jobs are cancelled as ordered, so that the queue stays as it is.
MIX = {"retrieve": 45, "list": 10, "models": 5, "create": 15, "cancel": 15, "delete": 10}
STOCK = 100  # jobs that wait before the first call
RESTING = 50  # cancelled jobs that are not deleted yet: nobody asks after the oldest any more
WARM_SHARE = 1 / 6  # of the time, before it: the same calls, not counted
RESIDENT = re.compile(rb"^process_resident_memory_bytes (\S+)$", re.MULTILINE)
MIB = 1 << 20

ErrorCount = Counter[str]  # by what was asked and answered


class Mixed(TypedDict):
    """What clients saw of the API under mixed calls."""

    mixed_p99_ms: float  # from a call's planned moment to its answer
    mixed_errors: int  # answers other than 200, and broken connections
    mixed_rss_growth_mb: float  # resident memory of the API process, from warm to the end
    details: dict[str, Any]


@dataclass
class Jobs:
    """The jobs that the traffic knows of: each waits, or was cancelled."""

    waiting: deque[str] = field(default_factory=deque)
    cancelled: deque[str] = field(default_factory=deque)


class Traffic:
    """Calls of every kind against one API, counted."""

    def __init__(self, url: str, free: asyncio.Queue[Connection], seed: int = 0) -> None:
        self.host = urlsplit(url).netloc
        self.free = free
        self.jobs = Jobs()
        self.dice = Random(seed)
        self.waits: dict[str, list[float]] = {kind: [] for kind in MIX}
        self.errors: ErrorCount = Counter()

    async def stock(self) -> None:
        """Order the first jobs, at once: the API then has all the threads that it will ever need.

        raises JobFailed if one is refused
        """
        now = asyncio.get_running_loop().time()
        await asyncio.gather(*(self.call("create", now) for _ in range(STOCK)))
        self.forget()

    def forget(self) -> None:
        """Count from now on. raises JobFailed if anything failed so far"""
        if self.errors:
            raise JobFailed(f"a call failed before the measurement: {dict(self.errors)}")
        self.waits = {kind: [] for kind in MIX}

    async def run(self, rate: int, duration_s: float) -> None:
        """So many calls a second, evenly spaced; returns when the last one is answered."""
        start = asyncio.get_running_loop().time() + 0.1
        count = int(rate * duration_s)
        kinds = self.dice.choices(list(MIX), weights=list(MIX.values()), k=count)
        await asyncio.gather(
            *(self.call(kind, start + index / rate) for index, kind in enumerate(kinds))
        )

    async def call(self, kind: str, planned: float) -> None:
        """One call at its moment on the loop's clock. A lack of connections counts as waiting."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(planned - loop.time())
        connection = await self.free.get()
        try:
            status, answer = await self.ask(kind, connection)
        except (OSError, EOFError, ValueError) as error:
            self.errors[f"{kind}: {type(error).__name__}"] += 1
            await connection.renew(self.host)
        else:
            self.waits[kind].append(loop.time() - planned)
            if status != 200:
                self.errors[f"{kind}: {status} {answer[:100]!r}"] += 1
        self.free.put_nowait(connection)

    async def ask(self, kind: str, connection: Connection) -> tuple[int, bytes]:
        """Send a call of this kind; without a job to cancel or delete, order one."""
        jobs, host = self.jobs, self.host
        if kind == "list":
            return await connection.ask("GET", PREFIX, host)
        if kind == "models":
            return await connection.ask("GET", f"{PREFIX}/models", host)
        if kind == "retrieve" and jobs.waiting:
            return await connection.ask("GET", f"{PREFIX}/{self.dice.choice(jobs.waiting)}", host)
        if kind == "cancel" and jobs.waiting:
            job_id = jobs.waiting.popleft()
            answer = await connection.ask("POST", f"{PREFIX}/{job_id}/cancel", host, b"")
            jobs.cancelled.append(job_id)
            return answer
        if kind == "delete" and len(jobs.cancelled) > RESTING:
            return await connection.ask("DELETE", f"{PREFIX}/{jobs.cancelled.popleft()}", host)
        return await self.order(connection)

    async def order(self, connection: Connection) -> tuple[int, bytes]:
        body = json.dumps({"prompt": PROMPT, "seed": self.dice.getrandbits(32)}).encode()
        status, answer = await connection.ask("POST", PREFIX, self.host, body)
        if status == 200:
            self.jobs.waiting.append(json.loads(answer)["id"])
        return status, answer

    async def resident_mb(self) -> float:
        """Resident memory of the API process, as it says itself."""
        connection = await self.free.get()
        _, text = await connection.ask("GET", "/metrics", self.host)
        self.free.put_nowait(connection)
        found = RESIDENT.search(text)
        return math.nan if found is None else float(found[1]) / MIB


def measure_mixed(rate: int, duration_s: float, note: Callable[[str], None]) -> Mixed:
    """Mixed calls against a service of its own, whose jobs nobody runs.

    rate    calls a second
    raises  StartError; JobFailed if a call fails before the measurement begins
    """
    with trial_service(workers=0, settings=OPEN_CAPS) as url:
        note(f"{rate} mixed calls a second for {duration_s:g} s, once it is warm")
        return asyncio.run(measure_at(url, rate, duration_s))


async def measure_at(url: str, rate: int, duration_s: float) -> Mixed:
    """The same against a running service whose caps are open."""
    async with connections(url) as free:
        traffic = Traffic(url, free)
        await traffic.stock()
        await traffic.run(rate, WARM_SHARE * duration_s)
        traffic.forget()
        before_mb = await traffic.resident_mb()
        await traffic.run(rate, duration_s)
        after_mb = await traffic.resident_mb()
    return summarise_traffic(traffic.waits, traffic.errors, (before_mb, after_mb), rate)


def summarise_traffic(
    waits: dict[str, list[float]], errors: ErrorCount, memory_mb: tuple[float, float], rate: int
) -> Mixed:
    """The figures, from seconds by kind of call and MiB before and after."""
    every = [wait for kind in waits.values() for wait in kind]
    return {
        "mixed_p99_ms": in_ms(quantile(every, 0.99)),
        "mixed_errors": errors.total(),
        "mixed_rss_growth_mb": round(memory_mb[1] - memory_mb[0], 1),
        "details": {
            "mixed_rate": rate,
            "mixed_calls": len(every),
            "mixed_p50_ms": in_ms(quantile(every, 0.5)),
            "mixed_max_ms": in_ms(max(every)),
            "mixed_p99_ms_by_call": {
                kind: in_ms(quantile(found, 0.99)) for kind, found in waits.items() if found
            },
            "mixed_rss_mb": [round(mb, 1) for mb in memory_mb],
            "mixed_errors_by_call": dict(errors.most_common(10)),
        },
    }
