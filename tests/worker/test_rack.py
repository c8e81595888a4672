"""Loaded models side by side: which goes first, how much they hold, and that what goes is gone."""

import time
import weakref
from dataclasses import replace

import numpy as np
import pytest

from models.catalog import ModelCard
from tests.cards import plain_card
from tests.worker.shapes import ShapesModel
from worker.memory import Holding
from worker.rack import Rack

WEIGHT_MB = 48


class HeavyModel(ShapesModel):
    """The moving square with weights that can be measured, in a circle of references."""

    def __init__(self, card: ModelCard) -> None:
        super().__init__(card, (1, 2, 3), "ab" * 32)
        self.weights = np.ones(WEIGHT_MB << 17)  # 8 bytes each
        self.circle = self


class Shop:
    """Racks of heavy models, and what becomes of these."""

    def __init__(self) -> None:
        self.dropped: list[str] = []
        self.made: list[weakref.ref[HeavyModel]] = []
        self.answers: dict[str, str] = {}  # the name of the model that is loaded in a name's place
        self.wanting = 0  # loads that find no memory

    def load(self, name: str) -> HeavyModel:
        if self.wanting:
            self.wanting -= 1
            raise MemoryError
        model = HeavyModel(replace(plain_card(), id=self.answers.get(name, name)))
        self.made.append(weakref.ref(model))
        return model

    def rack(self, most: int = 9, most_mb: float = 0, idle_s: float = 0) -> Rack:
        return Rack(self.load, most, most_mb, idle_s, self.dropped.append)

    def alive(self) -> int:
        return sum(model() is not None for model in self.made)


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_the_least_recently_used_goes_first(shop: Shop) -> None:
    rack = shop.rack(most=2)
    for name in ("a", "b", "a", "c"):
        assert rack.get(name).card.id == name
    assert (rack.names(), shop.dropped) == (["a", "c"], ["b"])
    rack.get("a")
    rack.get("b")
    assert (rack.names(), shop.dropped) == (["a", "b"], ["b", "c"])
    assert len(shop.made) == 4


def test_what_has_gone_holds_no_memory(shop: Shop) -> None:
    rack = shop.rack(most=1)
    for name in "abab":
        rack.get(name)
        assert shop.alive() == 1


def test_another_model_than_the_one_asked_for_is_refused_and_not_kept(shop: Shop) -> None:
    rack = shop.rack()
    shop.answers["b"] = "c"
    with pytest.raises(ValueError, match="asked for model 'b', got 'c'"):
        rack.get("b")
    assert rack.names() == []


def test_memory_as_it_was_measured_decides_what_stays(shop: Shop) -> None:
    rack = shop.rack(most_mb=2.5 * WEIGHT_MB)
    rack.get("a")
    rack.get("b")  # never measured: it gets all room
    assert rack.names() == ["b"]
    rack.get("a")
    assert rack.names() == ["b", "a"]
    assert rack.beside_mb("a") == pytest.approx(WEIGHT_MB, abs=8)
    rack.get("c")
    assert rack.names() == ["c"]
    rack.get("a")
    rack.get("b")  # three would be too many
    assert rack.names() == ["a", "b"]


def test_what_is_on_the_accelerator_is_not_measured_against_main_memory() -> None:
    first = Holding(accelerated=True, mb=100)
    assert first.since(Holding(accelerated=False, mb=700)) == 100
    assert Holding(accelerated=True, mb=130).since(first) == 30
    assert Holding(accelerated=True, mb=90).since(first) == 0


def test_a_model_that_finds_no_memory_beside_others_is_loaded_without_them(shop: Shop) -> None:
    rack = shop.rack()
    rack.get("a")
    shop.wanting = 1
    assert rack.get("b").card.id == "b"
    assert (rack.names(), shop.dropped) == (["b"], ["a"])
    rack.drop_others("b")
    shop.wanting = 2
    with pytest.raises(MemoryError):
        rack.get("c")


def test_what_nobody_uses_goes_and_comes_again(shop: Shop) -> None:
    rack = shop.rack(idle_s=0.8)
    assert rack.idle_in_s() is None
    rack.get("a")
    time.sleep(0.2)
    rack.get("b")
    rack.drop_idle()
    assert rack.names() == ["a", "b"]
    time.sleep(rack.idle_in_s() or 0)
    rack.drop_idle()
    assert (rack.names(), shop.alive()) == (["b"], 1)
    assert rack.get("a").card.id == "a"
    time.sleep(0.85)
    rack.used("a")  # only now
    rack.drop_idle()
    assert rack.names() == ["a"]


def test_without_a_limit_nothing_is_idle(shop: Shop) -> None:
    rack = shop.rack()
    rack.get("a")
    rack.drop_idle()
    assert (rack.names(), rack.idle_in_s()) == (["a"], None)
