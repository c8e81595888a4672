"""Faults on a seeded schedule: which, when and to whom; what came of each is written down."""

import math
import random
import threading
import time
from dataclasses import dataclass, field

from tests.chaos.faults import FAULTS
from tests.chaos.fleet import Fleet
from tests.chaos.watch import NoVictim, Stuck

LONGEST_GAP = 3.0  # of the mean one
AT_ONCE = 3  # faults that may be under way together


@dataclass
class Tally:
    """What one kind of fault did, so far. Safe to share between threads: it only appends."""

    recovered_s: list[float] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)


class Storm:
    """Strikes until told to stop; every kind once, in a new order, before any kind again."""

    def __init__(
        self, fleet: Fleet, seed: int, gap_s: float, kinds: tuple[str, ...] = tuple(FAULTS)
    ) -> None:
        self._fleet = fleet
        self._gap_s = gap_s  # from one fault to the next, on average
        self._rng = random.Random(f"{seed} storm")
        self._kinds = kinds
        self._free = threading.Semaphore(AT_ONCE)
        self._strikes: list[threading.Thread] = []
        self.tallies = {kind: Tally() for kind in kinds}

    def rage(self, stop: threading.Event) -> None:
        """Strike until told to stop, and wait for the last ones' end."""
        began = time.monotonic()
        while not stop.is_set():
            for kind in self._rng.sample(self._kinds, len(self._kinds)):
                gap_s = self._gap_s * min(self._rng.expovariate(1), LONGEST_GAP)
                if stop.wait(gap_s):
                    break
                self._begin(kind, round(time.monotonic() - began, 1))
        for strike in self._strikes:
            strike.join()

    def _begin(self, kind: str, at_s: float) -> None:
        fate = random.Random(self._rng.random())
        self._free.acquire()
        strike = threading.Thread(target=self._strike, args=(kind, at_s, fate), daemon=True)
        self._strikes.append(strike)
        strike.start()

    def _strike(self, kind: str, at_s: float, fate: random.Random) -> None:
        tally = self.tallies[kind]
        try:
            tally.recovered_s.append(FAULTS[kind](self._fleet, fate))
        except NoVictim:
            pass
        except Stuck:
            tally.stuck.append(f"{kind} at {at_s} s: work did not go on")
        except Exception as error:
            tally.stuck.append(f"{kind} at {at_s} s: {type(error).__name__}: {error}")
        finally:
            self._free.release()


def table(tallies: dict[str, Tally]) -> dict[str, dict[str, float | int | None]]:
    """How often each kind of fault struck, and the seconds until work went on."""
    return {
        kind: {
            "n": len(tally.recovered_s) + len(tally.stuck),
            "p50_s": percentile(tally.recovered_s, 50),
            "p95_s": percentile(tally.recovered_s, 95),
        }
        for kind, tally in tallies.items()
    }


def percentile(values: list[float], share: float) -> float | None:
    """The smallest value that so many percent of all do not exceed."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)], 2)
