"""Quality tiers: `standard` is what the checkpoint makes; `fast` leaves out what hardly changes;
`turbo` is a LoRA that makes do with few steps, see `models.openweights.lora`.

First-block cache: where the first block of a network answers nearly what it did a step ago, what
the other blocks added then is added again. It is on for one job only, and holds nothing afterwards.
A fast film is not gone on with from a checkpoint: the cache would begin empty, and the film change.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from models.openweights.progress import DENOISERS

FAST = "fast"
TOLERANCE = 0.1  # relative change of the first block's answer below which the others are left out


@contextmanager
def made_in(pipe: Any, quality: str | None) -> Iterator[None]:
    """Have a pipeline work in a tier while this is entered."""
    if quality != FAST:
        yield
        return
    with ExitStack() as stack:
        for name in DENOISERS:
            network = getattr(pipe, name, None)
            if network is not None:
                stack.enter_context(cached(network))
        yield


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
