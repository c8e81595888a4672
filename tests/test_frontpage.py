"""The README names nothing that is not there; its snippets are run by tests of the service."""

import json
import math
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from service.app import create_app
from service.cli import app
from service.settings import ServiceSettings
from worker.jobs.catalog import read_catalog
from worker.jobs.settings import JobSettings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Between two backticks, or after the prompt of a shell.
COMMANDS = re.findall(r"(?:`|^\$ \.venv/bin/)praxino ([^`\n#]+)", README, re.MULTILINE)
ROW = re.compile(r"^\| (`(?:GET|POST|DELETE) .+?) \|", re.MULTILINE)
PARAMETER = re.compile(r"\{\w+\}")


def test_calls_of_the_table_are_calls_of_the_api() -> None:
    document = create_app(ServiceSettings(redis_url=SecretStr("redis://nowhere"))).openapi()
    known = {
        (method.upper(), PARAMETER.sub("{}", path))
        for path, methods in document["paths"].items()
        for method in methods
    }
    known.add(("GET", "/openapi.json"))
    rows = ROW.findall(README)
    assert len(rows) > 10
    for row in rows:
        method = row.strip("`").split()[0]
        paths = re.findall(r"/[\w/{}.]+", row)
        assert paths
        for path in paths:
            assert (method, PARAMETER.sub("{}", path)) in known


@pytest.mark.parametrize("text", sorted({text.strip() for text in COMMANDS}))
def test_commands_exist_with_their_options(text: str) -> None:
    words = shlex.split(text)
    command = get_command(app)
    while isinstance(command, TyperGroup):
        command = command.commands[words.pop(0)]
    assert isinstance(command, TyperCommand)
    known = {name for option in command.params for name in option.opts}
    if command.name != "add":  # hands its options on to a program of its own
        assert {word for word in words if word.startswith("--")} <= known


def test_settings_exist() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    named = set(re.findall(r"\bPRAXINO_[A-Z]\w*", README))
    assert named <= set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    built = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for name in ("TORCH_VERSION", "PIP_EXTRA_INDEX_URL"):
        assert name in README
        assert f"ARG {name}\n" in built


def test_targets_files_modules_and_profiles_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make (\w+)`|^\$ make (\w+)", README, re.MULTILINE)) <= {
        pair for name in targets for pair in ((name, ""), ("", name))
    }
    files = set(
        re.findall(r"`((?:docs|deploy|models)/[\w/.]+|[A-Z]+(?:\.md)?|\.env\.example)`", README)
    )
    assert len(files) > 5
    assert [name for name in files if not (ROOT / name).exists()] == []
    for module in re.findall(r"`python -m ([\w.]+)`", README):
        assert find_spec(module)
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    profiles = {name for each in services.values() for name in each.get("profiles", ())}
    assert set(re.findall(r"--profile (\w+)", README)) == profiles


def test_figures_of_the_model_are_its_cards_and_its_reports() -> None:
    report = json.loads((ROOT / "reports" / "pocket.json").read_text(encoding="utf-8"))
    text = " ".join(README.split())
    found = re.search(
        r"Of (\d+) prompts the background is right in (all clips|\d+), the direction in (\d+), and "
        r"the subject can be named among (\d+) in (\d+)\.",
        text,
    )
    assert found is not None
    count = found[1]
    prompts, background, direction, among, named = (
        int(count if group == "all clips" else group) for group in found.groups()
    )
    given = {"background": background, "direction": direction, "subject_r1": named}
    for row, right in given.items():
        assert report[row]["n"] == prompts
        assert round(report[row]["value"] * prompts) == right
    assert report["subject_r1"]["chance"] == round(1 / among, 4)
    card = read_catalog()["pocket"]
    rule, size = card.cascade, card.sizes[0].replace("x", "\N{MULTIPLICATION SIGN}")
    assert rule is not None
    lengths = (
        f"{rule.min_seconds:g} to {rule.max_seconds:g} seconds at {card.fps[0]} frames a second"
    )
    assert f"films of {size} pixels, {lengths}" in text
    (rate,) = set(card.fps) - set(rule.fps)
    assert f"`size: {rule.base_size}` with `fps: {rate}` is what the base makes alone" in text


def test_an_unlucky_job_runs_as_often_as_is_said() -> None:
    tries = JobSettings.model_fields["max_attempts"].default
    said = {2: "twice", 3: "three times"}
    assert f"at most {said[tries]}" in " ".join(README.split())


def test_figures_of_the_service_are_its_reports() -> None:
    report = json.loads((ROOT / "reports" / "bench.json").read_text(encoding="utf-8"))
    text = " ".join(README.split())
    found = re.search(
        r"On (\d+) CPU cores the service adds (\d+) ms to a job, answers 99 of 100 orders, sent at "
        r"(\d+) a second, within (\d+) ms, and 99 of 100 mixed calls, at (\d+) a second, within "
        r"(\d+) ms",
        text,
    )
    assert found is not None
    cores, overhead_ms, _, order_ms, rate, mixed_ms = map(int, found.groups())
    details = report["details"]
    assert details["machine"].endswith(f", {cores} CPUs")
    assert details["mixed_rate"] == rate
    assert overhead_ms == round(report["overhead_ms"])
    assert order_ms == math.ceil(report["submit_p99_ms"])
    assert mixed_ms == math.ceil(report["mixed_p99_ms"])
    assert report["mixed_errors"] == 0
