"""How long a running attempt still takes, and what finished ones taught this worker.

Wall time as the supervisor sees it: from the order to the child until the film is stored.
"""

import time

from worker.jobs.catalog import CostCurve
from worker.jobs.contract import VideoRequest
from worker.jobs.costs import Estimate, Sample, Samples, adopt, estimate, learn, shape_of

DOUBT = 2  # steps that an estimate weighs as much as, against those of the attempt itself


class Timeline:
    """One attempt as it passes. Starts when it is made."""

    def __init__(self, request: VideoRequest) -> None:
        self.request = request
        self.began = time.monotonic()
        self.denoising_since: float | None = None
        self.index, self.total = 0, request.num_inference_steps
        self.stepped_at = self.began
        self.first = 0  # steps that earlier attempts did
        self.plain = True  # false once the steps began anew, as they do with several shots
        self.loading_since: float | None = None

    def begin_loading(self) -> None:
        """The model is not there yet."""
        self.loading_since = time.monotonic()

    def end_loading(self) -> None:
        """It is: only now the attempt begins."""
        self.began, self.loading_since = time.monotonic(), None
        self.stepped_at = self.began

    def step(self, index: int, total: int) -> None:
        """`index` of `total` denoising steps are done; 0 when they begin."""
        now = time.monotonic()
        if self.denoising_since is None:
            self.denoising_since, self.first = now, index
        elif index < self.index:
            self.plain = False
        self.index, self.total, self.stepped_at = index, total, now

    def sample(self, peak_mb: float, jobs: int) -> Sample:
        """What the attempt took, once it is over."""
        since = self.stepped_at if self.denoising_since is None else self.denoising_since
        return Sample(
            shape=shape_of(self.request),
            lead_s=since - self.began,
            step_s=(self.stepped_at - since) / self.request.num_inference_steps,
            tail_s=time.monotonic() - self.stepped_at,
            peak_mb=peak_mb,
            jobs=jobs,
        )

    def left_s(self, expected: Estimate, load_s: float) -> float:
        """Seconds to the end: what was expected, corrected by the steps seen so far.

        load_s  that the model takes to load
        """
        now = time.monotonic()
        if self.loading_since is not None:
            return max(0.0, load_s - (now - self.loading_since)) + expected.total_s
        if not self.plain:
            return max(0.0, expected.total_s - (now - self.began))
        if self.denoising_since is None:
            lead_s = max(0.0, expected.lead_s - (now - self.began))
            return lead_s + expected.total_s - expected.lead_s
        if self.index >= self.total:
            return max(0.0, expected.tail_s - (now - self.stepped_at))
        step_s = expected.step_s * expected.steps / self.total
        seen_s = self.stepped_at - self.denoising_since
        step_s = (DOUBT * step_s + seen_s) / (DOUBT + self.index - self.first)
        rest_s = (self.total - self.index) * step_s - (now - self.stepped_at)
        return max(0.0, rest_s) + expected.tail_s


class Pace:
    """How fast a model is on this worker, learned across attempts."""

    def __init__(self) -> None:
        self.samples: Samples = ()
        self.fresh: Sample | None = None  # of the last attempt, if it went well
        self.load_s = 0.0  # that it took to load
        self._curve = CostCurve()
        self._timeline: Timeline | None = None
        self._made: tuple[Timeline, float] | None = None  # a film, and its peak memory

    @property
    def seconds_per_step(self) -> float | None:
        """Of the latest shape."""
        return self.samples[-1].step_s if self.samples else None

    def rehearsed(
        self, curve: CostCurve, own: Sample | None, stored: Samples, load_s: float = 0.0
    ) -> None:
        """The model was loaded: how fast it is here, before any job. What jobs taught stands.

        stored  what workers of this model learned before, on whichever machines
        """
        self._curve, self.load_s = curve, load_s
        if own is not None and not self.samples:
            self.samples = adopt(stored, own)

    @property
    def curve(self) -> CostCurve:
        """How the cost of a clip grows, as the model declares."""
        return self._curve

    def aside(self) -> "Pace":
        """The same knowledge for an attempt that shares the worker with others: what it takes
        teaches nothing of clips that have the worker for themselves."""
        aside = Pace()
        aside.samples, aside._curve, aside.load_s = self.samples, self._curve, self.load_s
        return aside

    def begin(self, request: VideoRequest) -> None:
        """An attempt begins."""
        self._timeline, self.fresh = Timeline(request), None

    def begin_loading(self) -> None:
        """The attempt waits for its model."""
        if self._timeline is not None:
            self._timeline.begin_loading()

    def end_loading(self) -> None:
        """The model is there."""
        if self._timeline is not None:
            self._timeline.end_loading()

    def note_step(self, index: int, total: int) -> None:
        """A denoising step is done; 0 when the first one begins."""
        if self._timeline is not None:
            self._timeline.step(index, total)

    def note_end(self, peak_mb: float | None) -> None:
        """The attempt is over; `peak_mb` None: it made no film, so it teaches nothing. Nor does
        one that went on with another's."""
        self._made = None
        whole = self._timeline is not None and not self._timeline.first
        if self._timeline is not None and whole and peak_mb is not None:
            self._made = self._timeline, peak_mb
        self._timeline = None

    def note_settled(self) -> None:
        """The worker is free for the next job: what the last film took, publishing included."""
        if self._made is not None:
            timeline, peak_mb = self._made
            self.fresh = timeline.sample(peak_mb, jobs=1)
            self.samples = learn(self.samples, self.fresh)
        self._made = None

    def eta_s(self) -> float | None:
        """Seconds until the running attempt ends, or None while nothing is known."""
        timeline = self._timeline
        if timeline is None or not (self.samples or timeline.index):
            return None
        expected = estimate(timeline.request, self._curve, self.samples)
        return round(timeline.left_s(expected, self.load_s), 2)
