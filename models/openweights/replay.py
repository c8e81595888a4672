"""A pipeline's denoising loop, remembered and gone on with.

Differs from starting a loop in its middle, which schedulers that derive their order from the number
of steps do wrong: the whole loop runs again, but until the step that was remembered networks answer
at once with what they answered first, and the scheduler hands back what it was given. There the
scheduler is put into the state it had, and everything after that is as it would have been.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from models.openweights.progress import DENOISERS
from models.openweights.snapshots import ClipMemory, Snapshot, Unwritable, put_back, state_of


class Stepped(tuple[Any, ...]):
    """What a step returns, as a tuple or by name: pipelines ask for either."""

    __slots__ = ()

    @property
    def prev_sample(self) -> Any:
        """The latents after the step."""
        return self[0]


class Replay:
    """One run of a pipeline's loop."""

    def __init__(self, scheduler: Any, generator: torch.Generator, memory: ClipMemory) -> None:
        self._scheduler = scheduler
        self._generator = generator
        self._memory = memory
        self._goal = memory.latest
        self._done = 0
        self._writable = True

    @property
    def replaying(self) -> bool:
        """Whether what is asked for now was made before."""
        return self._goal is not None and self._done < self._goal.step

    def step(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """The scheduler's step, watched. It keeps the signature, which tells pipelines whether it
        takes a generator."""

        signature = inspect.signature(real)

        @functools.wraps(real)
        def step(*given: Any, **named: Any) -> Any:
            if self.replaying:
                return self._replayed(signature.bind(*given, **named).arguments["sample"])
            made = real(*given, **named)
            self._done += 1
            self._note(made if isinstance(made, tuple) else made.to_tuple())
            return made

        return step

    def answer(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """A network's forward, which computes once only while its answers do not matter."""
        first: list[Any] = []

        @functools.wraps(real)
        def forward(*inputs: Any, **named: Any) -> Any:
            if not self.replaying:
                return real(*inputs, **named)
            if not first:
                first.append(real(*inputs, **named))
            return first[0]

        return forward

    def _replayed(self, sample: torch.Tensor) -> Stepped:
        assert self._goal is not None
        self._done += 1
        if self.replaying:
            return Stepped(sample for _ in self._goal.made)
        put_back(self._goal.scheduler, self._scheduler, sample.device)
        self._generator.set_state(self._goal.generator)
        return Stepped(made.to(sample.device) for made in self._goal.made)

    def _note(self, made: tuple[torch.Tensor, ...]) -> None:
        if not self._writable:
            return
        try:
            state = state_of(self._scheduler)
        except Unwritable:
            self._writable = False
            return
        kept = tuple(one.detach().clone() for one in made)
        drawn = self._generator.get_state()
        self._memory.latest = Snapshot(self._done, kept, state, drawn)


@contextmanager
def remembered(pipe: Any, generator: torch.Generator, memory: ClipMemory) -> Iterator[None]:
    """Note every step of a pipeline's loop in a memory, and go on from what it holds."""
    replay = Replay(pipe.scheduler, generator, memory)
    with ExitStack() as stack:
        stack.enter_context(wrapped(pipe.scheduler, "step", replay.step))
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
