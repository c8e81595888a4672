"""`audit.sh`: what it makes of a tool's report, and of none."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A virtual environment that holds what this one does."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return tmp_path


def audit(venv: Path, report: Any, status: int) -> tuple[int, str]:
    """Run it with a tool that reports so; what it was asked is left in `asked`."""
    tool = venv / "audit" / "bin" / "pip-audit"
    tool.parent.mkdir(parents=True)
    (venv / "answer").write_text(report if isinstance(report, str) else json.dumps(report))
    tool.write_text(
        "#!/bin/sh\n"
        f'cp "$2" {venv}/asked\n'
        f'while [ "$1" != --output ]; do shift; done; cp {venv}/answer "$2"; exit {status}\n'
    )
    tool.chmod(0o755)
    command = ("sh", "audit.sh", str(venv))
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return answer.returncode, answer.stdout + answer.stderr


def package(name: str, *faults: str) -> dict[str, Any]:
    vulns = [{"id": fault, "fix_versions": ["9"]} for fault in faults]
    return {"name": name, "version": "1", "vulns": vulns}


def test_a_known_vulnerability_fails_and_is_named(venv: Path) -> None:
    report = {"dependencies": [package("sound"), package("holed", "PYSEC-1")]}
    status, said = audit(venv, report, 1)
    assert status == 1
    assert "holed 1: PYSEC-1, fixed in 9" in said
    asked = (venv / "asked").read_text().split()
    assert any(line.startswith("redis==8.") for line in asked)
    assert not [line for line in asked if "+" in line or line.startswith("praxino")]


def test_sound_packages_pass_and_those_not_judged_are_named(venv: Path) -> None:
    unknown = {"name": "ours", "skip_reason": "not on the index"}
    status, said = audit(venv, {"dependencies": [package("sound"), unknown]}, 0)
    assert status == 0
    assert "not judged: ours: not on the index" in said
    assert "1 packages, 0 known vulnerabilities" in said


@pytest.mark.parametrize("report", ["", {"dependencies": [{"name": "a", "skip_reason": "b"}]}])
def test_where_no_database_answers_it_is_skipped_and_says_so(venv: Path, report: Any) -> None:
    status, said = audit(venv, report, 1)
    assert status == 0
    assert "SKIPPED: no database" in said


def test_where_the_tool_cannot_be_had_it_is_skipped_and_says_so(
    venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(venv))
    command = ("sh", "audit.sh", str(venv))
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0
    assert "SKIPPED: pip-audit could not be installed" in answer.stderr
    assert not (venv / "audit").exists(), "a half-made tool would never be made whole"


def test_the_checks_audit_what_is_installed() -> None:
    command = ("make", "--dry-run", "check")
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "sh audit.sh .venv" in answer.stdout.splitlines()
