"""The measurement of open weights measures what it says, on networks too small to be timed."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import openbench
from tests.models.wilds import WILDS
from tests.openbench import SMALL, alternate, measure, passing, time_adapter, time_pupil
from tests.pupil import SHORT, coded, draw_clips, pictures, waves

# Of diffusers' own making: a scheduler hands a tensor to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_every_way_is_timed_and_makes_diffusers_own_film(tmp_path: Path) -> None:
    report = time_adapter(SMALL, 2, tmp_path)
    each = report["details"]["seconds_each"]
    counts = {name: len(seconds) for name, seconds in each.items()}
    assert counts == {"plain": 2, "adapter": 2, "batch": 1}
    assert report["adapter_overhead_ratio"] > -1


def test_a_pupil_is_taught_once_and_its_fast_films_leave_blocks_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = time_pupil(SHORT, 4, 1, tmp_path / "one", tmp_path, "off")
    details = report["details"]
    assert len(details["scores"]["loss"]) == SHORT.steps
    assert len(details["ssim_each"]) == openbench.TOGETHER
    assert report["fast_ssim"] == min(details["ssim_each"])
    assert details["batch_off_by"] <= 2
    assert details["blocks_computed"] <= 1
    monkeypatch.setattr("tests.pupil.teach", None)  # taught it was
    monkeypatch.setattr("models.openweights.tiers.TOLERANCE", 9.0)
    loose = time_pupil(SHORT, 4, 1, tmp_path / "two", tmp_path, "off")["details"]
    assert loose["blocks_computed"] == 0.25, "of four steps, the first alone"


def test_a_pupils_latents_show_the_clips_that_it_learns_from() -> None:
    clips, prompts = draw_clips(replace(SHORT, side=64))
    assert prompts[0].startswith("a ")
    seen = pictures(coded(clips[:1]), 1.0)
    frames = torch.stack([clips[0, :, 0], clips[0, :, 1:].mean(1)]).permute(0, 2, 3, 1)
    whole = ((frames + 1) * 127.5).numpy()
    assert seen.shape == whole.shape == (2, 64, 64, 3)
    assert np.abs(seen - whole).mean() < 8
    assert torch.allclose(waves() @ waves().T, torch.eye(16), atol=1e-5)


def test_what_was_measured_stays_when_a_later_part_fails(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "open.json"

    def fail() -> dict[str, Any]:
        raise RuntimeError("the machine is gone")

    parts = {"one": lambda: {"speed": 2, "details": {"what": "a film"}}, "two": fail}
    with pytest.raises(RuntimeError, match="gone"):
        measure(parts, ["one", "two"], path, 1)
    report = json.loads(path.read_text(encoding="utf-8"))
    assert (report["speed"], report["details"]["one"]["what"]) == (2, "a film")
    measure(parts | {"two": lambda: {"growth": 0}}, ["two"], path, 1)
    report = json.loads(path.read_text(encoding="utf-8"))
    assert (report["speed"], report["growth"]) == (2, 0)
    assert set(report["details"]) == {"one", "two"}


def test_models_in_turn_make_their_own_films(tmp_path: Path) -> None:
    report = alternate(4, tmp_path)
    assert len(report["details"]["held_mb"]) == 4
    assert min(report["details"]["held_mb"]) > 0


def test_a_checkpoint_passes_only_if_all_of_its_tests_do() -> None:
    good, bad, untold = sorted(WILDS)[:3]
    cases = f"""<s><testcase name="test_a[{good}]"/><testcase name="test_a[{bad}]"/>
        <testcase name="test_b[{bad}]"><failure/></testcase></s>"""
    report = passing(ET.fromstring(cases))
    assert report["details"]["passing"] == [good], (bad, untold)
    assert (report["adapters_passing"], report["adapters"]) == (1, len(WILDS))
