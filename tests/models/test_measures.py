"""Laws of the measures: what is chosen, what a probe opens, what each figure means."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.catalog import read_card
from models.evaluation.__main__ import _beside, main
from models.evaluation.measures import chosen
from models.evaluation.probe import assembled, open_preset
from models.videoldm.pipeline import VideoLDM
from models.videoldm.weights import WeightsError
from tests.models.presets import build_preset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_preset(tmp_path_factory.mktemp("models") / "tiny")


def test_a_probe_takes_other_weights_and_leaves_the_preset_alone(
    folder: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    moved = {name: value + 1 for name, value in load_file(folder / "unet.safetensors").items()}
    save_file(moved, tmp_path / "average.safetensors")
    own = open_preset(folder)
    probed = open_preset(folder, tmp_path / "average.safetensors", ("image",))
    assert isinstance(own, VideoLDM)
    assert isinstance(probed, VideoLDM)
    assert probed.weights_sha256 != own.weights_sha256
    assert probed.card.tasks == own.card.tasks | {"image"}
    for one, other in zip(
        probed.preset.unet.parameters(), own.preset.unet.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other + 1)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_probe_is_as_strict_as_the_loader(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="average"):
        open_preset(folder, tmp_path / "average.safetensors")
    save_file({"stray": torch.zeros(1)}, tmp_path / "stray.safetensors")
    with pytest.raises(WeightsError, match="does not fit"):
        open_preset(folder, tmp_path / "stray.safetensors")
    with assembled(folder) as linked:
        assert linked.exists()
    assert not linked.exists()


def test_a_measure_that_there_is_not_is_named_with_those_there_are(folder: Path) -> None:
    card = read_card(folder / "card.json")
    with pytest.raises(ValueError, match=r"beauty: the measures are subject_r1"):
        chosen(card, ("beauty", "direction"))
    names = [name for measure in chosen(card, ("direction",)) for name in measure.names]
    assert "direction" in names


def test_rows_join_a_report_of_the_same_weights_only(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    new = {"direction": {"value": 1.0}, "model": {"weights_sha256": "a"}}
    assert _beside(report, new) == new
    old = {"direction": {"value": 0.5}, "flicker": {"value": 0.1}}
    report.write_text(json.dumps(old | {"model": {"weights_sha256": "a"}}), encoding="utf-8")
    assert _beside(report, new) == {"flicker": {"value": 0.1}, **new}
    report.write_text(json.dumps(old | {"model": {"weights_sha256": "b"}}), encoding="utf-8")
    assert _beside(report, new) == new


def test_what_cannot_be_measured_ends_with_one_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = tmp_path / "empty"
    shutil.copytree(folder, empty)
    (empty / "unet.safetensors").unlink()
    for arguments, told in (
        (["--preset", str(folder), "--only", "beauty"], "error: beauty"),
        (["--preset", str(empty)], "unet.safetensors"),
        (["--preset", str(tmp_path / "none")], "none/card.json: no such file"),
    ):
        monkeypatch.setattr("sys.argv", ["evaluation", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        output = capsys.readouterr()
        assert told in output.err
        assert output.err.count("\n") == 1
