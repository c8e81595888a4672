"""Our own networks as films share them that are made side by side; see `models.batch`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from models.batch import Question, Table
from models.videoldm.conditioning import Conditions, joined, layout
from models.videoldm.unet import UNet

Network = TypeVar("Network", bound=UNet)


class Share(Protocol):
    """A network to one that stands in for it."""

    def __call__(self, network: Network) -> Network: ...


@dataclass(eq=False)
class Denoising(Question):
    """What `UNet.forward` is asked."""

    network: nn.Module
    x: Tensor  # (b, c, t, h, w)
    noise_lambda: Tensor  # (b,)
    told: Conditions
    moving: bool

    @property
    def kind(self) -> str:
        """Questions of one kind can share a pass."""
        shape = tuple(self.x.shape[1:])
        return f"{id(self.network)} {self.moving} {shape} {layout(self.told)}"

    def pass_with(self, others: "Sequence[Denoising]") -> Sequence[Tensor]:
        """The answers, each as its x."""
        asked = (self, *others)
        v: Tensor = self.network(
            torch.cat([question.x for question in asked]),
            torch.cat([question.noise_lambda for question in asked]),
            joined([question.told for question in asked]),
            moving=self.moving,
        )
        return v.split([len(question.x) for question in asked])


class SharedNetwork(nn.Module):
    """Stands in for a network: what it is asked, it asks together with the other films."""

    def __init__(self, network: nn.Module, table: Table, place: int) -> None:
        super().__init__()
        self.network = network
        self._table, self._place = table, place

    def forward(
        self, x: Tensor, noise_lambda: Tensor, conditions: Conditions, moving: bool = True
    ) -> Tensor:
        """As `UNet.forward`."""
        if x.requires_grad:  # a gradient does not pass from thread to thread
            alone: Tensor = self.network(x, noise_lambda, conditions, moving=moving)
            return alone
        question = Denoising(self.network, x, noise_lambda, conditions, moving)
        answer: Tensor = self._table.ask(self._place, question)
        return answer


def sharing(table: Table, place: int) -> Share:
    """What makes a film's networks of the model's."""

    def share(network: Network) -> Network:
        return cast(Network, SharedNetwork(network, table, place))

    return share
