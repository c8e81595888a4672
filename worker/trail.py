"""The spans of one attempt: how long its job waited, and every stage until it ended.

Told by the supervisor from what it hears of the child, which knows nothing of traces. Waiting is
from the queue server's clock to this machine's, the rest by this machine's alone.
"""

import time

from worker.attempt import Outcome, Verdict
from worker.jobs.contract import Job, Progress, Stage
from worker.jobs.tracing import Span, Tracing

WELL = frozenset({Verdict.DONE, Verdict.CANCELLED, Verdict.DRAINED, Verdict.OUTRANKED})


class Trail:
    """One attempt, from its claim on. Belongs under the call that ordered the job."""

    def __init__(self, tracing: Tracing, job: Job, attempt: int, worker: str) -> None:
        self._tracing = tracing
        facts: dict[str, str | int | float] = {
            "praxino.job_id": job.id,
            "praxino.tenant": job.tenant,
            "praxino.model": job.request.model,
            "praxino.task_type": job.request.task_type,
            "praxino.attempt": attempt,
        }
        claimed = time.time()
        waited_since = job.attempts[-1].ended_at if job.attempts else job.created_at
        began = min(waited_since, claimed)
        tier = {"praxino.tier": job.tier.value}
        tracing.begin("job.wait", "internal", job.traceparent, facts | tier, began).end(claimed)
        request = job.request
        facts |= {"praxino.worker": worker, "praxino.steps": request.num_inference_steps}
        facts |= {"praxino.size": f"{request.width}x{request.height}"}
        facts |= {"praxino.frames": request.num_frames}
        self._whole = tracing.begin("job.attempt", "consumer", job.traceparent, facts, claimed)
        self._stage = Stage.LOADING
        self._part: Span = self._begin_part()

    def follow(self, progress: Progress) -> None:
        """The attempt has come so far."""
        if progress.stage is not self._stage:
            self._part.end()
            self._stage = progress.stage
            self._part = self._begin_part()

    def leave(self, outcome: Outcome) -> None:
        """The child is done with it; what remains is to write down how it ended."""
        self._whole.note({"praxino.verdict": outcome.verdict.value})
        if outcome.verdict not in WELL:
            code = outcome.error.code.value if outcome.error else outcome.verdict.value
            self._part.fail(code)
            self._whole.fail(code)
        self._part.end()

    def end(self, ending: str) -> None:
        """It is written down."""
        self._whole.note({"praxino.ending": ending})
        self._whole.end()

    def _begin_part(self) -> Span:
        return self._tracing.begin(f"job.{self._stage}", "internal", self._whole.traceparent)
