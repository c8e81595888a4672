"""What prompts were encoded to, kept in main memory: the same words cost their encoder once.

A pipeline asks its own `encode_prompt`; that is answered from here. Whatever stands in the call
decides, so a changed negative prompt, length or precision is another entry.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from models.openweights.replay import wrapped

MAX_BYTES = 2**28
PLAIN = (str, int, float, torch.dtype, type(None))
PLACE = "device"  # where an answer is wanted says nothing about what it is


class PromptCache:
    """The least recently used entries are forgotten."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()
        self.hits = 0
        self.misses = 0

    @property
    def held_bytes(self) -> int:
        """Of all tensors that are kept."""
        return sum(map(size_of, self._entries.values()))

    @contextmanager
    def over(self, pipe: Any) -> Iterator[None]:
        """Answer a pipeline's encoding of prompts while this is entered."""
        if not hasattr(pipe, "encode_prompt"):
            yield
            return
        with wrapped(pipe, "encode_prompt", self._cached):
            yield

    def _cached(self, real: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(real)

        def encode_prompt(*given: Any, **named: Any) -> Any:
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            key = key_of(bound.arguments)
            if key is None:
                return real(*given, **named)
            place = torch.device(bound.arguments.get(PLACE) or "cpu")
            if key in self._entries:
                self.hits += 1
                self._entries.move_to_end(key)
                return mapped(self._entries[key], lambda tensor: tensor.to(place, copy=True))
            self.misses += 1
            answer = real(*given, **named)
            self._keep(key, mapped(answer, lambda tensor: tensor.detach().to("cpu", copy=True)))
            return answer

        return encode_prompt

    def _keep(self, key: Hashable, answer: Any) -> None:
        self._entries[key] = answer
        while self._entries and self.held_bytes > self._max_bytes:
            self._entries.popitem(last=False)


def key_of(arguments: dict[str, Any]) -> Hashable | None:
    """What decides an answer; None if a tensor or a picture is among it."""
    rest = {name: value for name, value in arguments.items() if name != PLACE}
    if not all(map(is_plain, rest.values())):
        return None
    return tuple((name, repr(value)) for name, value in sorted(rest.items()))


def is_plain(value: object) -> bool:
    """Whether a value's text says all of it."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, (*value, *value.values())))
    return isinstance(value, PLAIN)


def mapped(answer: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An answer with every tensor in it changed."""
    if isinstance(answer, Tensor):
        return change(answer)
    if isinstance(answer, list | tuple):
        return type(answer)(mapped(item, change) for item in answer)
    return answer


def size_of(answer: Any) -> int:
    """Bytes of all tensors in an answer."""
    if isinstance(answer, Tensor):
        return answer.numel() * answer.element_size()
    return sum(map(size_of, answer)) if isinstance(answer, list | tuple) else 0
