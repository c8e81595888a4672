"""`Prefer: wait=n` (RFC 7240): an answer that waits for the job's end, at most a minute.

Nothing holds a thread meanwhile, and a client that hangs up is noticed.
"""

import re
import time
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.deps import Services
from service.follow import while_connected
from worker.jobs.contract import TERMINAL, Job

LONGEST_S = 60
WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?:;[^,]*)?(?=,|$)", re.IGNORECASE)

Answer = Callable[[Job, Services, dict[str, str]], Response]


def wanted_wait_s(prefer: str | None) -> int | None:
    """The seconds a client wants to wait, at most a minute; None if it said nothing of the kind."""
    found = WAIT.search(prefer or "")
    return min(int(found[1]), LONGEST_S) if found else None


def patiently(
    job: Job, prefer: str | None, services: Services, answer: Answer, headers: dict[str, str]
) -> Response:
    """The answer about a job: at once, or when it has ended if the client prefers to wait."""
    wait_s = wanted_wait_s(prefer)
    if wait_s is None:
        return answer(job, services, headers)
    applied = headers | {"Preference-Applied": f"wait={wait_s}"}
    return PatientAnswer(job, wait_s, services, lambda found: answer(found, services, applied))


class PatientAnswer(Response):
    """An answer that is written once the job has ended, or the wait is over."""

    def __init__(
        self, job: Job, wait_s: int, services: Services, answer: Callable[[Job], Response]
    ) -> None:
        super().__init__()
        self.job = job
        self.wait_s = wait_s
        self.services = services
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait, then answer; nobody is answered who has hung up."""

        async def work() -> None:
            job = await self._settled()
            response = await run_in_threadpool(self.answer, job)
            await response(scope, receive, send)

        await while_connected(receive, work)

    async def _settled(self) -> Job:
        """The job as it is when it has ended or the time is up. raises JobNotFound"""
        if self.job.status in TERMINAL:
            return self.job
        deadline = time.monotonic() + self.wait_s
        job_id, tenant = self.job.id, self.job.tenant
        async with self.services.hub.follow(job_id) as follower:
            job: Job = await run_in_threadpool(self.services.store.get, job_id, tenant)
            while job.status not in TERMINAL and not follower.topic.over:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not await follower.wait(left_s):
                    break
                if any(event.job.status in TERMINAL for event in follower.topic.events):
                    break
        return await run_in_threadpool(self.services.store.get, job_id, tenant)
