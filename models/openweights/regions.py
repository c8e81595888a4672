"""A network's repeated blocks, compiled: one region for all of them, in the quality `fast`.

PyTorch's regional compilation: blocks of one class share what was compiled for the first, so that
this takes as long for forty as for one. Differs from diffusers' `compile_repeated_blocks`, which
compiles what hooks on a block do as well: the cache of a step decides by a number whether a block
computes at all, which cannot be compiled. Here only what a block computes is, beneath all hooks.

A block that calls with other shapes is compiled again, at most as often as PyTorch allows.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from models.openweights.replay import wrapped

INDUCTOR = "inductor"


class Compiler:
    """Compiles blocks of networks, each once; what was compiled is kept for later films.

    strict   raise what goes wrong; else say so once and compute without, from then on
    backend  of PyTorch's compiler, by name or as a function
    """

    def __init__(self, *, strict: bool, backend: str | Callable[..., Any] = INDUCTOR) -> None:
        self._strict = strict
        self._backend = backend
        self._broken = False
        self._compiled: dict[int, Callable[..., Any]] = {}

    @contextmanager
    def over(self, network: Any) -> Iterator[None]:
        """Have a network's repeated blocks compiled while this is entered; those of a network that
        declares none are left as they are."""
        with ExitStack() as stack:
            for block in repeated(network):
                wrap = functools.partial(self._wrap, id(block))
                stack.enter_context(wrapped(block, "forward", wrap))
            yield

    def _wrap(self, block: int, real: Callable[..., Any]) -> Callable[..., Any]:
        if block not in self._compiled:
            self._compiled[block] = torch.compile(real, fullgraph=True, backend=self._backend)
        quick = self._compiled[block]
        return quick if self._strict else self._forgiving(quick, real)

    def _forgiving(self, quick: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        def forward(*given: Any, **named: Any) -> Any:
            if self._broken:
                return real(*given, **named)
            try:
                return quick(*given, **named)
            except (TorchDynamoException, FailOnRecompileLimitHit) as error:
                self._broken = True
                reason = " ".join(str(error).split())[:500]
                warnings.warn(f"blocks are not compiled: {reason}", RuntimeWarning, stacklevel=2)
                return real(*given, **named)

        return forward


def repeated(network: Any) -> list[torch.nn.Module]:
    """The blocks that a network's class names as repeated."""
    kinds = set(getattr(network, "_repeated_blocks", None) or ())
    return [part for part in network.modules() if type(part).__name__ in kinds]
