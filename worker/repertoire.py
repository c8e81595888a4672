"""Whose turn it is: the models of one worker, and in which order it listens to their queues.

Tiers come before models. Within a tier the models take turns, the one that was served longest ago
first. A turn lasts for `turn_s` seconds from when its model was loaded, and longer while nobody
waits for another; until it is over, jobs of its model go first, since they need no loading. So
among n models nobody is passed over for longer than n - 1 turns, each with the loading before it
and the job that it ends in. Each tier keeps turns of its own: a job that overtakes in a higher one
ends no turn and begins none. At a model's turn, jobs for the worker's class go before the others.

A model that did not load is left alone for a while, and longer each time: its jobs wait for another
worker, or for whoever mends it, and those of the other models do not wait for it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from worker.jobs import transport
from worker.jobs.contract import Tier

log = structlog.get_logger()

FIRST_S = 5.0
LONGEST_S = 60.0
DOUBLINGS = 10


@dataclass(frozen=True)
class Turn:
    """A model goes first, since a moment of the monotonic clock."""

    model: str
    began: float


class Repertoire:
    """The models of one worker. The first one has the first turn."""

    def __init__(self, models: Sequence[str], gpu_class: str, turn_s: float) -> None:
        self.models = tuple(models)
        self.current = self.models[0]  # whose job was taken last
        self._reliable = self.models[0]  # that was loaded last
        self._turn_s = turn_s
        self._names = {
            (tier, model): transport.served_queues(model, gpu_class, (tier,))
            for tier in Tier
            for model in self.models
        }
        self._turns: dict[Tier, Turn] = {}
        self._served: dict[tuple[Tier, str], int] = {}  # the number of the last job taken
        self._taken = 0
        self._faults: dict[str, int] = {}  # in a row
        self._until: dict[str, float] = {}

    def queues(self) -> list[str]:
        """The names of the queues to take the next job from, the one to serve first first."""
        return [
            name
            for tier in Tier
            for model in self._order(tier)
            for name in self._names[tier, model]
        ]

    def next_up(self) -> str:
        """The model that a new child loads first: one that did load, if it can be."""
        awake = [model for model in self.models if not self.is_broken(model)]
        return self._reliable if self._reliable in awake or not awake else awake[0]

    def before(self, queue: str) -> list[str]:
        """The names of those that are served before one of them."""
        names = self.queues()
        return names[: names.index(queue)] if queue in names else names

    def took(self, queue: str) -> None:
        """A job was taken from the queue of this name."""
        tier, model = next(key for key, names in self._names.items() if queue in names)
        self.current = model
        self._taken += 1
        self._served[tier, model] = self._taken
        turn = self._turns.get(tier)
        if turn is None or turn.model != model:
            self._turns[tier] = Turn(model, time.monotonic())

    def nobody_waits(self) -> None:
        """Every queue is empty: whatever comes next, the model that is loaded is not to be
        changed in haste."""
        self._turns = {tier: Turn(self.current, time.monotonic()) for tier in Tier}

    def loaded(self, model: str) -> None:
        """A model was loaded: its turns begin now."""
        self._reliable = model
        self._faults.pop(model, None)
        self._until.pop(model, None)
        for tier, turn in self._turns.items():
            if turn.model == model:
                self._turns[tier] = Turn(model, time.monotonic())

    def failed(self, model: str) -> None:
        """A model did not load: leave its jobs alone for a while."""
        faults = self._faults[model] = self._faults.get(model, 0) + 1
        seconds = min(LONGEST_S, FIRST_S * 2.0 ** min(faults - 1, DOUBLINGS))
        self._until[model] = time.monotonic() + seconds
        log.warning("model.rests", model=model, faults=faults, rest_s=seconds)

    def is_broken(self, model: str) -> bool:
        """Whether its jobs are left alone, since it did not load."""
        return time.monotonic() < self._until.get(model, 0.0)

    def _order(self, tier: Tier) -> list[str]:
        """The models whose jobs of a tier are taken, the one whose turn it is first."""
        awake = [model for model in self.models if not self.is_broken(model)]
        order = sorted(awake, key=lambda model: self._served.get((tier, model), 0))
        turn = self._turns.get(tier)
        if turn and turn.model in order and time.monotonic() - turn.began < self._turn_s:
            order.remove(turn.model)
            order.insert(0, turn.model)
        return order
