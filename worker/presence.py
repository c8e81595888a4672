"""How a worker is known: what it says about itself every few seconds, while it lives."""

import contextlib
import os
from collections.abc import Mapping

from worker.clock import Clock
from worker.forecast import Pace
from worker.jobs.costs import Samples
from worker.jobs.outcomes import Serving, WorkerInfo
from worker.jobs.store import JobStore
from worker.launcher import Launcher
from worker.messages import Ready
from worker.patience import OUTAGES
from worker.pulse import Pulse
from worker.repertoire import Repertoire

ANNOUNCE_EVERY_S = 5.0


class Presence:
    """The announcements of one worker. An outage loses one; the next comes soon."""

    def __init__(
        self,
        store: JobStore,
        name: str,
        gpu_class: str,
        ttl_s: float,
        launcher: Launcher,
        repertoire: Repertoire,
        paces: Mapping[str, Pace],
        pulse: Pulse,
    ) -> None:
        self._store = store
        self._name = name
        self._gpu_class = gpu_class
        self._ttl_s = ttl_s
        self._launcher = launcher
        self._repertoire = repertoire
        self._paces = paces
        self._pulse = pulse
        self._clock = Clock(ANNOUNCE_EVERY_S, at_once=True)
        self._told: tuple[int, tuple[Serving, ...]] | None = None
        self.known: dict[str, Ready] = {}  # what was said of each model when it was last loaded

    def due(self) -> bool:
        """Whether it is time to be heard again; asking with the answer yes starts a period."""
        return self._clock.due()

    def announce(self, state: str, job_id: str | None = None) -> None:
        """Say what the worker does now: starting, idle, busy, resting or draining."""
        self._pulse.beat(state)
        self._put(state, job_id, self._ttl_s)

    def outdated(self) -> bool:
        """Whether models were loaded or unloaded, or broke, since that was said last."""
        return self._told != (self._launcher.loads, self._serving())

    def meet(self, ready: Ready) -> None:
        """A model was loaded: reckon with how fast it is here, and with what is known of it."""
        self.known[ready.model] = ready
        stored: Samples = ()
        with contextlib.suppress(*OUTAGES):
            self._store.count_load(ready.model)
            stored = self._store.learned(ready.model)
        self._paces[ready.model].rehearsed(ready.cost, ready.rehearsal, stored, ready.load_s)

    def share(self, model: str) -> None:
        """Let workers yet to come know what the last film of a model took."""
        fresh = self._paces[model].fresh
        if fresh is not None:
            with contextlib.suppress(*OUTAGES):
                self._store.learn(model, fresh)

    def retire(self) -> None:
        """Be forgotten at once."""
        self._pulse.stop()
        self._put("draining", None, 0.001)

    def _put(self, state: str, job_id: str | None, ttl_s: float) -> None:
        loads, serving = self._told = self._launcher.loads, self._serving()
        info = WorkerInfo(
            name=self._name,
            model=self._repertoire.current,
            state=state,
            gpu_class=self._gpu_class,
            pid=os.getpid(),
            job_id=job_id,
            loads=loads,
            serving=serving,
        )
        with contextlib.suppress(*OUTAGES):
            self._store.put_worker(info, ttl_s)

    def _serving(self) -> tuple[Serving, ...]:
        return tuple(map(self._of, self._repertoire.models))

    def _of(self, model: str) -> Serving:
        ready, pace = self.known.get(model), self._paces[model]
        return Serving(
            model=model,
            loaded=model in self._launcher.loaded,
            broken=self._repertoire.is_broken(model),
            weights_sha256=ready.weights_sha256 if ready else "",
            seconds_per_step=pace.seconds_per_step,
            load_s=ready.load_s if ready else None,
            memory_mb=ready.memory_mb if ready else None,
            peak_mb=max((sample.peak_mb for sample in pace.samples), default=0.0),
            samples=pace.samples,
        )
