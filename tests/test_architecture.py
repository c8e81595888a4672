"""Laws of the house that an import checker cannot prove."""

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from service.settings import ServiceSettings
from worker.settings import JanitorSettings, WebhookSettings, WorkerSettings

ROOT = Path(__file__).parents[1]
SETTINGS: tuple[type[BaseSettings], ...] = (
    ServiceSettings,
    WorkerSettings,
    JanitorSettings,
    WebhookSettings,
)
PACKAGES = ("service", "worker", "models")
SOURCES = sorted(
    path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
)
MODULES = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in SOURCES]
TORCH_FREE = (
    "models.catalog",
    "worker.jobs.store",
    "worker.jobs.transport",
    "worker.supervisor",
    "worker.__main__",
    "worker.janitor",
    "worker.webhooks",
    "service.app",
    "service.cli",
    "service.demo",
    "service.bench",
)
QUEUE_FREE = ("worker.child", "worker.film", "worker.pace")

IMPORT_WITHOUT = """
import importlib, sys
forbidden = set(sys.argv[1].split(","))
for name in sys.argv[2:]:
    importlib.import_module(name)
    found = forbidden & {loaded.split(".")[0] for loaded in list(sys.modules)}
    if found:
        sys.exit(f"{name} loads {sorted(found)}")
"""

IMPORT_WATCHED = """
import importlib, os, sys, threading
# What other people's packages do when they are imported is their affair.
import torch, rq, redis, boto3, fastapi, structlog, typer, httpx, av, pydantic_settings, einops
import prometheus_client, uvicorn, PIL.Image, safetensors, tokenizers

faults = []
effects = {"socket.connect", "socket.bind", "os.mkdir", "os.remove", "subprocess.Popen"}

def audit(event, arguments):
    writes = event == "open" and set(str(arguments[1] or "")) & set("wax+")
    if event in effects or writes:
        faults.append(f"{event} {arguments!r}")

def read(self, name, _read=type(os.environ).__getitem__):
    if str(name).startswith("PRAXINO_"):
        faults.append(f"reading {name}")
    return _read(self, name)

before, threads = dict(os.environ), threading.active_count()
type(os.environ).__getitem__ = read
sys.addaudithook(audit)
for name in sys.argv[1:]:
    importlib.import_module(name)
    if faults:
        sys.exit(f"importing {name} has effects: {faults}")
del faults[:]
if dict(os.environ) != before:
    sys.exit("the environment was changed")
if threading.active_count() != threads:
    sys.exit("a thread was started")
"""


def python(code: str, folder: Path, *arguments: str) -> None:
    """Run code in an empty folder and environment; every warning is an error."""
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PRAXINO_DATA_DIR": "/nowhere",  # for settings that are read too early
    }
    answer = subprocess.run(
        (sys.executable, "-W", "error", "-c", code, *arguments),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr


def test_everything_but_the_child_works_without_torch(tmp_path: Path) -> None:
    python(IMPORT_WITHOUT, tmp_path, "torch,diffusers,transformers", *TORCH_FREE)


def test_the_child_never_loads_the_queue(tmp_path: Path) -> None:
    python(IMPORT_WITHOUT, tmp_path, "redis,rq", *QUEUE_FREE)


def test_importing_any_module_has_no_effect(tmp_path: Path) -> None:
    names = [name for name in MODULES if not name.endswith("__main__")]
    assert len(names) > 50
    python(IMPORT_WATCHED, tmp_path, *names)
    assert not list(tmp_path.iterdir())


def test_the_map_names_every_source_file() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:service|worker|models)/[\w/]+\.py)`", text))
    files = {str(path) for path in SOURCES if path.name != "__init__.py"}
    assert files - named == set(), "missing from ARCHITECTURE.md"
    assert named - files == set(), "named in ARCHITECTURE.md, but not there"


def test_packages_are_docstrings_only() -> None:
    for path in SOURCES:
        if path.name == "__init__.py":
            text = (ROOT / path).read_text(encoding="utf-8").strip()
            assert re.fullmatch(r'"""[^"]+"""', text), f"{path} holds more than a docstring"


def example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("#")[0].strip().partition("=") for line in lines)
    return {name: value.strip().strip('"') for name, mark, value in pairs if mark}


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_example_names_every_setting_and_its_default(settings: type[BaseSettings]) -> None:
    listed = example()
    for name, field in settings.model_fields.items():
        variable = f"PRAXINO_{name.upper()}"
        assert variable in listed, f"{variable} is missing from .env.example"
        if field.is_required() or field.default in (None, ()):
            assert listed[variable] == "", f"{variable} has no default"
        else:
            assert as_setting(listed[variable]) == as_setting(field.default), variable


def as_setting(value: Any) -> str | float:
    try:
        return float(value)
    except ValueError:
        return str(value)
    except TypeError:
        return str(value)


def test_the_example_names_no_setting_that_is_gone() -> None:
    known = {f"PRAXINO_{name.upper()}" for settings in SETTINGS for name in settings.model_fields}
    cli = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "service").glob("*.py"))
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    known |= set(re.findall(r'envvar="(\w+)"', cli)) | set(re.findall(r"\$\{(\w+)", compose))
    known |= set(re.findall(r"^ +(\w+):(?: #.*)?$", compose, re.MULTILINE))  # passed on as it is
    assert set(example()) <= known


def test_every_settings_class_is_checked() -> None:
    pattern = re.compile(r"^class (\w+Settings)\(", re.MULTILINE)
    found = {name for path in SOURCES for name in pattern.findall((ROOT / path).read_text("utf-8"))}
    assert found == {settings.__name__ for settings in SETTINGS} | {
        "JobSettings",
        "StorageSettings",
    }


def test_the_changelog_has_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"\n## {project['version']}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_names_that_are_strings_resolve() -> None:
    from worker.launcher import CHILD_MODULE
    from worker.ranks import FOLLOWER_MODULE

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    targets = [*project["scripts"].values(), WorkerSettings.model_fields["model_loader"].default]
    for target in targets:
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name)), target
    started = re.findall(
        r'"-m", "([\w.]+)"',
        "".join((ROOT / path).read_text(encoding="utf-8") for path in SOURCES),
    )
    for module in {*started, CHILD_MODULE, FOLLOWER_MODULE}:
        found = importlib.util.find_spec(module)
        assert found is not None, f"python -m {module}"
        if found.submodule_search_locations is not None:
            assert importlib.util.find_spec(f"{module}.__main__") is not None


def test_keys_of_the_queue_server_are_written_in_one_file() -> None:
    for path in SOURCES:
        if path.as_posix() == "worker/jobs/keys.py":
            continue
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not re.search(r"""["']px:""", text), f"{path} writes a key of its own"


def test_a_log_line_that_names_a_job_names_its_tenant() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log."):
                told = {word.arg for word in node.keywords}
                assert "job_id" not in told or "tenant" in told, f"{path}:{node.lineno}"
            if isinstance(node, ast.Assign) and ast.unparse(node).startswith("facts = {"):
                told = set(re.findall(r"'(\w+)':", ast.unparse(node)))
                assert "job_id" not in told or "tenant" in told, f"{path}:{node.lineno}"


def test_compose_gives_workers_longer_than_their_drain() -> None:
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    grace = re.search(r"stop_grace_period: (\d+)s # longer than PRAXINO_DRAIN_S", compose)
    assert grace is not None
    assert int(grace[1]) > WorkerSettings.model_fields["drain_s"].default
