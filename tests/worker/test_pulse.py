"""The sign of life that health checks read."""

import os
import time
from pathlib import Path

import pytest

from worker.jobs.settings import StorageSettings
from worker.pulse import SILENT_S, Pulse, find_fault, main, pulse_file


def asked(data_dir: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setenv("PRAXINO_DATA_DIR", str(data_dir))
    return main(["worker", *arguments])


def test_a_worker_is_well_from_its_first_beat_and_ready_once_it_waits_for_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(tmp_path, monkeypatch) == 1
    assert "no sign of life" in capsys.readouterr().err
    pulse = Pulse(tmp_path, "worker")
    pulse.beat("starting")
    assert asked(tmp_path, monkeypatch) == 0
    assert asked(tmp_path, monkeypatch, "--ready") == 1
    assert "not ready: starting" in capsys.readouterr().err
    pulse.beat("idle")
    assert asked(tmp_path, monkeypatch, "--ready") == 0
    pulse.stop()
    assert asked(tmp_path, monkeypatch) == 1


def test_silence_is_a_fault_until_the_next_beat(tmp_path: Path) -> None:
    pulse, file = Pulse(tmp_path, "janitor"), pulse_file(tmp_path, "janitor")
    pulse.beat("idle")
    long_ago = time.time() - SILENT_S - 1
    os.utime(file, (long_ago, long_ago))
    assert "silent for 6" in str(find_fault(file, ready=False))
    pulse.beat()
    assert find_fault(file, ready=True) is None, "a beat without a state keeps the last one"


def test_a_shorter_state_leaves_nothing_of_the_longer_one(tmp_path: Path) -> None:
    pulse = Pulse(tmp_path, "worker")
    pulse.beat("draining")
    pulse.beat("idle")
    assert pulse_file(tmp_path, "worker").read_text("ascii").strip() == "idle"


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "pulse").write_text("a file where the folder should be")
    pulse = Pulse(tmp_path, "worker")
    pulse.beat("idle")
    pulse.stop()
    assert find_fault(pulse_file(tmp_path, "worker"), ready=False) == "no sign of life"


def test_the_check_looks_where_the_processes_write() -> None:
    assert StorageSettings.model_fields["data_dir"].default == Path("data")
