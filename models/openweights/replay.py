"""A pipeline's denoising loop, remembered and gone on with.

Differs from starting a loop in its middle, which schedulers that derive their order from the number
of steps do wrong: the whole loop runs again, but until the step that was remembered networks answer
at once with what they answered first, and the scheduler hands back what it was given. There the
scheduler is put into the state it had, and everything after that is as it would have been.
"""

import functools
import inspect
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from models.openweights.progress import DENOISERS
from models.openweights.snapshots import (
    FilmMemory,
    Made,
    Snapshot,
    Unwritable,
    put_back,
    state_of,
)

SCHEDULERS = ("scheduler", "audio_scheduler")  # sound is denoised beside the pictures


class Stepped(tuple[Any, ...]):
    """What a step returns, as a tuple or by name: pipelines ask for either."""

    __slots__ = ()

    @property
    def prev_sample(self) -> Any:
        """The latents after the step."""
        return self[0]


class Replay:
    """One run of a pipeline: of its loop, or of several one after the other.

    Where a pipeline has several schedulers, each makes its share of every step, in their order.
    """

    def __init__(
        self, schedulers: Sequence[Any], generator: torch.Generator, memory: FilmMemory
    ) -> None:
        self._schedulers = schedulers
        self._generator = generator
        self._memory = memory
        self._goal = memory.latest
        self._done = 0
        self._writable = True
        self._shares: list[Made] = []  # of the step that is being made
        self._ends = {} if self._goal is None else dict(self._goal.ends)

    @property
    def replaying(self) -> bool:
        """Whether what is asked for now was made before."""
        return self._goal is not None and self._done < self._goal.step

    def step(self, real: Callable[..., Any], at: int) -> Callable[..., Any]:
        """The step of one of the schedulers, watched. It keeps the signature, which tells pipelines
        whether it takes a generator."""

        signature = inspect.signature(real)

        @functools.wraps(real)
        def step(*given: Any, **named: Any) -> Any:
            if self.replaying:
                sample = signature.bind(*given, **named).arguments["sample"]
                return self._replayed(at, sample)
            made = real(*given, **named)
            share = made if isinstance(made, tuple) else made.to_tuple()
            self._shares.append(tuple(one.detach().clone() for one in share))
            if self._is_last(at):
                self._done += 1
                self._note()
            return made

        return step

    def begin(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """A scheduler's `set_timesteps`: a loop begins, and another may have ended."""

        @functools.wraps(real)
        def set_timesteps(*given: Any, **named: Any) -> Any:
            latest = self._memory.latest
            if latest is not None and self._done == latest.step:
                self._ends[str(latest.step)] = latest.made
            return real(*given, **named)

        return set_timesteps

    def answer(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """A network's forward, which computes once only while its answers do not matter: once for
        each shape, since guidance may ask about one batch and then about another."""
        first: dict[Hashable, Any] = {}

        @functools.wraps(real)
        def forward(*inputs: Any, **named: Any) -> Any:
            if not self.replaying:
                return real(*inputs, **named)
            values = (*inputs, *named.values())
            shapes = tuple(tuple(one.shape) for one in values if isinstance(one, torch.Tensor))
            if shapes not in first:
                first[shapes] = real(*inputs, **named)
            return first[shapes]

        return forward

    def _is_last(self, at: int) -> bool:
        return at == len(self._schedulers) - 1

    def _replayed(self, at: int, sample: torch.Tensor) -> Stepped:
        assert self._goal is not None
        step = self._done + 1
        self._done += self._is_last(at)
        if step < self._goal.step:
            ended = self._ends.get(str(step))
            return stepped(self._goal.made[at], sample) if ended is None else Stepped(ended[at])
        put_back(self._goal.schedulers[at], self._schedulers[at], sample.device)
        self._generator.set_state(self._goal.generator)
        return Stepped(made.to(sample.device) for made in self._goal.made[at])

    def _note(self) -> None:
        made, self._shares = tuple(self._shares), []
        if not self._writable:
            return
        try:
            states = tuple(map(state_of, self._schedulers))
        except Unwritable:
            self._writable = False
            return
        drawn = self._generator.get_state()
        self._memory.latest = Snapshot(self._done, made, states, drawn, dict(self._ends))


def stepped(like: Made, sample: torch.Tensor) -> Stepped:
    """As many answers as a step has, each the latents that it was given."""
    return Stepped(sample for _ in like)


def schedulers_of(pipe: Any) -> list[Any]:
    """Whoever steps in a pipeline's loop, in their order there."""
    found = (getattr(pipe, name, None) for name in SCHEDULERS)
    return [scheduler for scheduler in found if scheduler is not None]


@contextmanager
def remembered(pipe: Any, generator: torch.Generator, memory: FilmMemory) -> Iterator[None]:
    """Note every step of a pipeline's loop in a memory, and go on from what it holds."""
    schedulers = schedulers_of(pipe)
    replay = Replay(schedulers, generator, memory)
    with ExitStack() as stack:
        for at, scheduler in enumerate(schedulers):
            step = functools.partial(replay.step, at=at)
            stack.enter_context(wrapped(scheduler, "step", step))
        stack.enter_context(wrapped(schedulers[0], "set_timesteps", replay.begin))
        if memory.latest is not None:
            for name in DENOISERS:
                module = getattr(pipe, name, None)
                if module is not None:
                    stack.enter_context(wrapped(module, "forward", replay.answer))
        yield


@contextmanager
def wrapped(owner: Any, name: str, wrap: Callable[..., Any]) -> Iterator[None]:
    """Have a method of one object wrapped while this is entered."""
    own = vars(owner).get(name)  # a hook may have put one there
    vars(owner)[name] = wrap(getattr(owner, name))
    try:
        yield
    finally:
        if own is None:
            del vars(owner)[name]
        else:
            vars(owner)[name] = own
