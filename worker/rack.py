"""The models that a child keeps loaded: the least recently used goes when there is no more room.

Room is counted in models, and in MiB as measured when each was loaded; a model that was never
measured here gets all of it, so that it can be. What goes is given back to the system: references,
cycles, the accelerator's cache, the heap's free pages.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from models.protocol import VideoModel, lacks_memory
from worker.memory import holding, release_memory


@dataclass
class Held:
    """A loaded model. Moments are of the monotonic clock."""

    model: VideoModel
    size_mb: float
    used_at: float


class Rack:
    """Loaded models by name, the least recently used first.

    load     a name to a model; whatever it raises passes through
    most     how many are kept at once
    most_mb  how much they may hold together; 0: any
    idle_s   how long one is kept that nobody uses; 0: for ever
    dropped  called with the name of each that has gone
    """

    def __init__(
        self,
        load: Callable[[str], VideoModel],
        most: int,
        most_mb: float,
        idle_s: float,
        dropped: Callable[[str], None],
    ) -> None:
        self._load = load
        self._most = most
        self._most_mb = most_mb
        self._idle_s = idle_s
        self._dropped = dropped
        self._held: dict[str, Held] = {}
        self._sizes: dict[str, float] = {}  # of every model that was ever loaded

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def names(self) -> list[str]:
        """The loaded models, the one that goes first first."""
        return list(self._held)

    def get(self, name: str) -> VideoModel:
        """The model of this name, loaded if it was not; now the last to go.

        raises ValueError if what was loaded is another one; whatever loading raises
        """
        held = self._held.pop(name, None) or self._fetch(name)
        self._held[name] = held
        self.used(name)
        return held.model

    def used(self, name: str) -> None:
        """Whoever got it needs it no more: from now on it is idle."""
        if name in self._held:
            self._held[name].used_at = time.monotonic()

    def beside_mb(self, name: str) -> float:
        """How much the other loaded models hold."""
        return sum(held.size_mb for other, held in self._held.items() if other != name)

    def drop_others(self, name: str) -> bool:
        """Let all go but one; whether there were any."""
        others = [other for other in self._held if other != name]
        for other in others:
            self._drop(other)
        return bool(others)

    def drop_idle(self) -> None:
        """Let those go that nobody has used for too long."""
        if not self._idle_s:
            return
        since = time.monotonic() - self._idle_s
        for name in [name for name, held in self._held.items() if held.used_at <= since]:
            self._drop(name)

    def idle_in_s(self) -> float | None:
        """When to look for idle ones again; None: never."""
        if not self._idle_s or not self._held:
            return None
        oldest = min(held.used_at for held in self._held.values())
        return max(0.0, oldest + self._idle_s - time.monotonic())

    def _fetch(self, name: str) -> Held:
        while self._held and not self._has_room(name):
            self._drop(next(iter(self._held)))
        before = holding()
        model = self._attempt(name)
        if model is None:  # no memory beside the others
            self.drop_others(name)
            before = holding()
            model = self._load(name)
        if model.card.id != name:
            raise ValueError(f"asked for model {name!r}, got {model.card.id!r}")
        self._sizes[name] = holding().since(before)
        return Held(model, self._sizes[name], time.monotonic())

    def _attempt(self, name: str) -> VideoModel | None:
        """The model, or None if it may find memory once others are gone."""
        try:
            return self._load(name)
        except Exception as error:
            if self._held and lacks_memory(error):
                return None
            raise

    def _has_room(self, name: str) -> bool:
        if len(self._held) >= self._most:
            return False
        if not self._most_mb:
            return True
        size_mb = self._sizes.get(name)
        return size_mb is not None and self.beside_mb(name) + size_mb <= self._most_mb

    def _drop(self, name: str) -> None:
        del self._held[name]
        release_memory()
        self._dropped(name)
