"""The model card says what is true: data, figures and weights are those in the repository."""

import json
import re

import pytest

from models.catalog import read_card
from models.training import assets
from models.training.concepts import EDITION, HELD_OUT, TRAINED
from models.training.scenes import SCENES
from models.videoldm.config import read_config
from models.videoldm.weights import digest
from tests.models.presets import POCKET

CARD = (POCKET / "README.md").read_text(encoding="utf-8")
REPORT = json.loads((POCKET.parents[1] / "reports" / "pocket.json").read_text(encoding="utf-8"))

PACKAGES = [value for value in vars(assets).values() if isinstance(value, assets.Package)]


@pytest.mark.parametrize("package", [*PACKAGES, *assets.FLUENT_ANIMATED], ids=lambda p: p.name)
def test_every_package_is_listed_with_version_and_licence(package: assets.Package) -> None:
    line = next(line for line in CARD.splitlines() if f"`{package.name}`" in line)
    assert package.version in line
    assert package.licence.split(" ")[0] in line


def test_the_report_is_of_the_weights_that_ship() -> None:
    assert REPORT["model"]["weights_sha256"] == digest(POCKET)


def test_drawings_are_offered_if_the_weights_were_trained_on_them() -> None:
    card, config = read_card(POCKET / "card.json"), read_config(POCKET / "config.json")
    assert card.inputs.last_frame_sketches == ("sketch" in config.abilities)


@pytest.mark.parametrize("name", ["subject_r1", "subject_auc", "direction", "background"])
def test_the_cards_figures_are_the_reports(name: str) -> None:
    row = re.search(rf"^\| `{name}` \| ([\d.]+) \| ([\d.]+) \| (\d+) \|", CARD, re.MULTILINE)
    assert row is not None
    measured = REPORT[name]
    assert row[1] == f"{measured['value']:.3f}"
    assert row[2] == f"{measured['control']:.3f}"
    assert int(row[3]) == measured["n"]


def test_the_card_counts_subjects_and_scenes_rightly() -> None:
    for count in (len(EDITION), len(TRAINED), len(HELD_OUT), len(SCENES)):
        assert re.search(rf"\b{count}\b", CARD)


def test_the_whole_preset_stays_under_90_megabytes() -> None:
    assert sum(path.stat().st_size for path in POCKET.iterdir()) <= 90e6
