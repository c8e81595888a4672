"""A checkpoint's networks as films share them that are made side by side; see `models.batch`.

What a network is asked has rows of its own for each film, joined along the first axis, and facts
that films must have in common to share a pass, such as where in the clip a token stands.
"""

import copy
import functools
import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.batch import Question, Table
from models.openweights.progress import DENOISERS


@dataclass(eq=False)
class Forward(Question):
    """What a network's `forward` is asked.

    named   its arguments, by name
    joined  which of them have rows of each film; the first has as many as the answer
    """

    network: nn.Module
    named: dict[str, Any]
    joined: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Questions of one kind can share a pass."""
        return f"{id(self.network)} {self._kind}"

    @functools.cached_property
    def _kind(self) -> str:
        return " ".join(f"{name}={self._common(name)}" for name in sorted(self.named))

    def _common(self, name: str) -> str:
        value = self.named[name]
        if name in self.joined and isinstance(value, Tensor):
            return f"{value.dtype}{tuple(value.shape[1:])}"
        return fingerprint(value)

    def pass_with(self, others: "Sequence[Forward]") -> Sequence[Any]:
        """The answers, each with the rows that were asked about."""
        asked = (self, *others)
        named = dict(self.named)
        for name in self.joined:
            if isinstance(named.get(name), Tensor):
                named[name] = torch.cat([question.named[name] for question in asked])
        rows = [len(question.named[self.joined[0]]) for question in asked]
        return split(self.network(**named), rows)


class SharedNetwork(nn.Module):
    """Stands in for a network: what it is asked, it asks together with the other films."""

    def __init__(
        self, network: nn.Module, table: Table, place: int, joined: tuple[str, ...]
    ) -> None:
        super().__init__()
        # Not among its parts: moving or casting this leaves the network as it is.
        vars(self).update(network=network, table=table, place=place, joined=joined)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["network"], name)

    def forward(self, *given: Any, **named: Any) -> Any:
        """As the network's."""
        network, table = vars(self)["network"], vars(self)["table"]
        bound = inspect.signature(network.forward).bind(*given, **named)
        return table.ask(self.place, Forward(network, bound.arguments, self.joined))


def at_place(table: Table, place: int, joined: tuple[str, ...], pipe: Any) -> Any:
    """A pipeline of the same parts whose networks are asked at a place of a table."""
    own = copy.copy(pipe)
    for name in DENOISERS:
        network = getattr(pipe, name, None)
        if network is not None:
            vars(own)[name] = SharedNetwork(network, table, place, joined)
    return own


def split(answer: Any, rows: list[int]) -> list[Any]:
    """An answer by the rows of each film: tensors in a tuple, or by name."""
    if isinstance(answer, Tensor):
        return list(answer.split(rows))
    if isinstance(answer, dict):  # diffusers' outputs are
        parts = [split(value, rows) for value in answer.values()]
        names = list(answer)
        return [
            type(answer)(**dict(zip(names, one, strict=True))) for one in zip(*parts, strict=True)
        ]
    return list(zip(*(split(value, rows) for value in answer), strict=True))


def fingerprint(value: Any) -> str:
    """Text that is the same for the same value only."""
    if isinstance(value, Tensor):
        # repeat: what was expanded has strides of 0, of which there is no view
        data = value.detach().cpu().reshape(-1).repeat(1).view(torch.uint8).numpy().tobytes()
        return f"{value.dtype}{tuple(value.shape)}{hashlib.sha256(data).hexdigest()}"
    if isinstance(value, list | tuple):
        return f"({','.join(map(fingerprint, value))})"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{fingerprint(one)}' for key, one in value.items())}}}"
    return repr(value)
