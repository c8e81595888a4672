"""Quality tiers: `standard` is what the checkpoint makes; `fast` leaves out what hardly changes;
`turbo` is a LoRA that makes do with few steps, see `models.openweights.lora`.

First-block cache: where the first block of a network answers nearly what it did a step ago, what
the other blocks added then is added again. Besides, `fast` may compute attention by another kernel
and have blocks compiled. All of it is on for one film only, and holds nothing afterwards. A fast
film is not gone on with from a checkpoint: the cache would begin empty, and the film change.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from models.openweights.attention import NATIVE, only_for
from models.openweights.progress import DENOISERS

FAST = "fast"
TOLERANCE = 0.1  # relative change of the first block's answer below which the others are left out


class Compiles(Protocol):
    """See `models.openweights.regions.Compiler`."""

    def over(self, network: Any) -> AbstractContextManager[None]:
        """Have a network's repeated blocks compiled while this is entered."""


@dataclass(frozen=True)
class Means:
    """What `fast` uses besides the cache."""

    attention: str = NATIVE  # the kernel
    compiler: Compiles | None = None


PLAIN = Means()


@contextmanager
def made_in(pipe: Any, quality: str | None, means: Means = PLAIN) -> Iterator[None]:
    """Have a pipeline work in a tier while this is entered."""
    if quality != FAST:
        yield
        return
    with ExitStack() as stack:
        for name in DENOISERS:
            network = getattr(pipe, name, None)
            if network is not None:
                for mean in hurried(network, means):  # hooks of the cache are outermost
                    stack.enter_context(mean)
        yield


def hurried(network: Any, means: Means) -> Iterator[AbstractContextManager[None]]:
    """Everything that makes a network fast, in the order in which it is put around it. One that is
    spread over ranks has kernels of its own, which exchange tokens: it gets the cache only."""
    if getattr(network, "_parallel_config", None) is None:
        yield nullcontext() if means.attention == NATIVE else only_for(network, means.attention)
        yield nullcontext() if means.compiler is None else means.compiler.over(network)
    yield cached(network)


@contextmanager
def cached(network: Any) -> Iterator[None]:
    """A network whose later blocks are left out where the first says so."""
    from diffusers import FirstBlockCacheConfig

    from models.openweights.spread import leave_out_blocks

    leave_out_blocks(network, FirstBlockCacheConfig(threshold=TOLERANCE))
    try:
        yield
    finally:
        network.disable_cache()
