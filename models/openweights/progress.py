"""A pipeline's progress bar as the place where a job reports, and where it is stopped.

Every pipeline of diffusers updates its bar after each denoising step. An exception out of there
ends the call at once; flags that ask a pipeline to stop would still have it decode.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from models.protocol import OnStep, Step

DENOISERS = ("transformer", "transformer_2", "unet")


class Bar:
    """What a pipeline takes for a progress bar, all its loops on one.

    total  steps of all loops together
    """

    def __init__(self, on_step: OnStep, total: int, loops: int) -> None:
        self._on_step = on_step
        self._total = total
        self._loops = loops  # that are not over
        self._done = 0

    def __enter__(self) -> "Bar":
        if self._done == 0:
            self._on_step(Step("denoising", 0, self._total))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._loops -= 1
        if kind is None and self._loops == 0:
            self._on_step(Step("decoding", 0, 1))

    def update(self, count: int = 1) -> None:
        """So many steps more are done; raises whatever `on_step` does."""
        self._done = min(self._done + count, self._total)
        self._on_step(Step("denoising", self._done, self._total))

    def set_postfix(self, *_: object, **__: object) -> None:
        """What pipelines would show beside the bar."""


@contextmanager
def watched(pipe: Any, on_step: OnStep, steps: int, loops: int = 1) -> Iterator[None]:
    """Have a pipeline's steps reported while this is entered; whatever ends it, it is clean.

    steps  of each of its loops
    """
    bar = Bar(on_step, steps * loops, loops)
    pipe.progress_bar = lambda iterable=None, total=None: bar
    try:
        yield
    except BaseException:
        for name in DENOISERS:
            reset = getattr(getattr(pipe, name, None), "_reset_stateful_cache", None)
            if reset is not None:
                reset()
        pipe.maybe_free_model_hooks()
        raise
    finally:
        del pipe.progress_bar
