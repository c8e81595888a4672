"""The measurement of open weights measures what it says, on networks too small to be timed."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from tests.models.wilds import WILDS
from tests.openbench import SMALL, alternate, passing, similarity, time_adapter

# Of diffusers' own making: a scheduler hands a tensor to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_every_way_is_timed_and_makes_diffusers_own_film(tmp_path: Path) -> None:
    report = time_adapter(SMALL, 2, tmp_path)
    each = report["details"]["seconds_each"]
    assert {name: len(seconds) for name, seconds in each.items()} == {
        "plain": 2,
        "adapter": 2,
        "fast": 2,
    }
    assert report["adapter_overhead_ratio"] > -1
    assert 0 < report["fast_ssim"] <= 1


def test_models_in_turn_make_their_own_films(tmp_path: Path) -> None:
    report = alternate(4, tmp_path)
    assert len(report["swaps"]["held_mb"]) == 4
    assert min(report["swaps"]["held_mb"]) > 0


def test_a_checkpoint_passes_only_if_all_of_its_tests_do() -> None:
    good, bad, untold = sorted(WILDS)[:3]
    cases = f"""<s><testcase name="test_a[{good}]"/><testcase name="test_a[{bad}]"/>
        <testcase name="test_b[{bad}]"><failure/></testcase></s>"""
    report = passing(ET.fromstring(cases))
    assert report["passing"] == [good], (bad, untold)
    assert (report["adapters_passing"], report["adapters"]) == (1, len(WILDS))


def test_similarity_is_one_for_the_same_film_and_falls_with_noise() -> None:
    draw = np.random.default_rng(1)
    film = draw.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    little = np.clip(film + draw.normal(0, 5, film.shape), 0, 255).astype(np.uint8)
    much = np.clip(film + draw.normal(0, 60, film.shape), 0, 255).astype(np.uint8)
    assert similarity(film, film) == pytest.approx(1)
    assert 1 > similarity(film, little) > similarity(film, much)
