"""How a worker is known: what it says about itself every few seconds, while it lives."""

import contextlib
import os

from worker.clock import Clock
from worker.forecast import Pace
from worker.jobs.costs import Samples
from worker.jobs.outcomes import WorkerInfo
from worker.jobs.store import JobStore
from worker.launcher import Launcher
from worker.messages import Ready
from worker.patience import OUTAGES
from worker.pulse import Pulse

ANNOUNCE_EVERY_S = 5.0


class Presence:
    """The announcements of one worker. An outage loses one; the next comes soon."""

    def __init__(
        self,
        store: JobStore,
        name: str,
        model: str,
        gpu_class: str,
        ttl_s: float,
        launcher: Launcher,
        pace: Pace,
        pulse: Pulse,
    ) -> None:
        self._store = store
        self._name = name
        self._model = model
        self._gpu_class = gpu_class
        self._ttl_s = ttl_s
        self._launcher = launcher
        self._pace = pace
        self._pulse = pulse
        self._clock = Clock(ANNOUNCE_EVERY_S, at_once=True)

    def due(self) -> bool:
        """Whether it is time to be heard again; asking with the answer yes starts a period."""
        return self._clock.due()

    def announce(self, state: str, job_id: str | None = None) -> None:
        """Say what the worker does now: starting, idle, busy, resting or draining."""
        self._pulse.beat(state)
        self._put(state, job_id, self._ttl_s)

    def meet(self, ready: Ready) -> None:
        """A model was loaded: reckon with how fast it is here, and with what is known of it."""
        stored: Samples = ()
        with contextlib.suppress(*OUTAGES):
            self._store.count_load(self._model)
            stored = self._store.learned(self._model)
        self._pace.rehearsed(ready.cost, ready.rehearsal, stored)

    def share(self) -> None:
        """Let workers yet to come know what the last film took."""
        if self._pace.fresh is not None:
            with contextlib.suppress(*OUTAGES):
                self._store.learn(self._model, self._pace.fresh)

    def retire(self) -> None:
        """Be forgotten at once."""
        self._pulse.stop()
        self._put("draining", None, 0.001)

    def _put(self, state: str, job_id: str | None, ttl_s: float) -> None:
        ready = self._launcher.ready
        info = WorkerInfo(
            name=self._name,
            model=self._model,
            state=state,
            gpu_class=self._gpu_class,
            pid=os.getpid(),
            job_id=job_id,
            loads=self._launcher.loads,
            weights_sha256=ready.weights_sha256 if ready else "",
            seconds_per_step=self._pace.seconds_per_step,
            load_s=ready.load_s if ready else None,
            memory_mb=ready.memory_mb if ready else None,
            peak_mb=max((sample.peak_mb for sample in self._pace.samples), default=0.0),
            samples=self._pace.samples,
        )
        with contextlib.suppress(*OUTAGES):
            self._store.put_worker(info, ttl_s)
