"""What can be said of the deployment's files without an engine; `make containers` does the rest."""

import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from service.metrics import StoreCollector
from service.settings import ServiceSettings
from tests.conftest import Valkey
from worker.jobs import transport
from worker.jobs.connection import web_client
from worker.jobs.contract import Tier
from worker.jobs.outbox import Outbox
from worker.jobs.settings import JobSettings
from worker.jobs.store import JobStore
from worker.settings import JanitorSettings, WebhookSettings, WorkerSettings

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
MANIFESTS = ROOT / "deploy" / "kubernetes"
PODS = {"Deployment", "StatefulSet"}


def check(*words: str) -> None:
    answer = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def compose() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def manifests() -> list[dict[str, Any]]:
    """Every document of the kustomization."""
    names = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text("utf-8"))["resources"]
    texts = [(MANIFESTS / name).read_text(encoding="utf-8") for name in names]
    return [document for text in texts for document in yaml.safe_load_all(text)]


def pods() -> dict[str, dict[str, Any]]:
    """What each workload's pods are made of, by name."""
    found = (each for each in manifests() if each["kind"] in PODS)
    return {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in found}


def setting(pod: dict[str, Any], name: str) -> float:
    values = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    return float(values[name])


# Images and compose


def test_the_linter_has_nothing_to_say_of_the_dockerfile() -> None:
    check(str(BIN / "hadolint"), "--failure-threshold", "warning", "Dockerfile")


def test_the_compose_file_follows_its_schema() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    check(str(BIN / "check-jsonschema"), *schema, "docker-compose.yml")


def test_the_images_take_no_secret_as_an_argument() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    arguments = set(re.findall(r"^ARG (\w+)", text, re.MULTILINE))
    assert arguments == {
        "PYTHON_IMAGE",
        "QUEUE_IMAGE",
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "TORCH_VERSION",
        "EXTRAS",
    }
    assert "# syntax=" not in text, "the frontend would be fetched from a registry"


def step_of(stage: str, words: str) -> str:
    """The shell command of a stage's one step that holds these words."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (body,) = re.findall(rf"^FROM \S+ AS {stage}\n(.*?)(?=^FROM |\Z)", text, re.M | re.S)
    steps = re.findall(r"^RUN ((?:.*\\\n)*.*)", body, re.M)
    (step,) = (step for step in steps if words in step)
    return re.sub(r"--mount=\S+|\\\n", "", step)


@pytest.mark.parametrize(
    ("extras", "torch", "files"),
    [
        ("", "", ["all", "extras/open"]),
        ("", "2.13.0+cpu", []),
        ("none", "", []),
        ("open,gguf", "2.13.0+cpu", ["all", "extras/open", "extras/gguf"]),
    ],
)
def test_open_weights_are_in_a_workers_image_unless_it_is_without_cuda(
    extras: str, torch: str, files: list[str]
) -> None:
    """The step itself, with another `pip`."""
    script = f'pip() {{ printf "%s " "$@"; }}; {step_of("worker", "EXTRAS")}'
    given = {"PATH": os.environ["PATH"], "EXTRAS": extras, "TORCH_VERSION": torch}
    made = subprocess.run(("sh", "-ec", script), env=given, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert re.findall(r"-r /(\S+)\.txt", made.stdout) == files
    arguments = compose()["services"]["worker"]["build"]["args"]
    assert {"EXTRAS", "TORCH_VERSION"} <= set(arguments), "compose does not pass them on"


def test_each_extra_is_a_list_for_the_images(tmp_path: Path) -> None:
    step = step_of("needs", "tomllib").replace("python", sys.executable, 1)
    step = re.sub(r"(?<![\w.])/(?=extras|all|light)", f"{tmp_path}/", step)
    step = step.replace("/pyproject.toml", str(ROOT / "pyproject.toml"))
    subprocess.run(("sh", "-ec", step), check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in ("open", "int8", "gguf"):
        listed = (tmp_path / "extras" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        assert listed == project["optional-dependencies"][name]
    light = (tmp_path / "light.txt").read_text(encoding="utf-8")
    assert not re.search("^(torch|diffusers)", light, re.M)


@pytest.mark.parametrize("name", sorted(compose()["services"]))
def test_every_container_is_walled_in(name: str) -> None:
    container = compose()["services"][name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["init"] is True


def test_compose_serves_without_a_profile_and_without_a_setting() -> None:
    found = compose()
    plain = {name for name, each in found["services"].items() if "profiles" not in each}
    assert plain == {"queue", "service", "janitor", "webhooks", "worker"}
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert not re.search(r"\$\{\w+:?\?", text), "a variable is required"
    others = {n: each["profiles"] for n, each in found["services"].items() if n not in plain}
    assert others == {
        "worker-gpu": ["gpu"],
        "s3": ["s3"],
        "prometheus": ["metrics"],
        "grafana": ["metrics"],
    }


READERS: dict[str, type[JobSettings]] = {
    "service": ServiceSettings,
    "worker": WorkerSettings,
    "worker-gpu": WorkerSettings,
    "janitor": JanitorSettings,
    "webhooks": WebhookSettings,
}
DECIDED = {"PRAXINO_DATA_DIR", "PRAXINO_REDIS_URL", "PRAXINO_PUBLISHED"}  # by the compose file
ON_THE_COMMAND_LINE = {"PRAXINO_HOST", "PRAXINO_PORT"}
SENDS_NOTHING = {"worker", "worker-gpu", "janitor"}  # so it is not told what is signed with


@pytest.mark.parametrize("name", READERS)
def test_a_setting_reaches_the_container_that_reads_it(name: str) -> None:
    given = compose()["services"][name]["environment"]
    needed = {f"PRAXINO_{field.upper()}" for field in READERS[name].model_fields}
    needed -= ON_THE_COMMAND_LINE
    needed -= {"PRAXINO_WEBHOOK_SECRETS"} if name in SENDS_NOTHING else set()
    assert needed == {each for each in given if each.startswith("PRAXINO_")}
    for variable in needed - DECIDED - ({"PRAXINO_DEVICE"} if name == "worker" else set()):
        value = given[variable]
        assert value is None or value.startswith(f"${{{variable}:-"), f"{variable} is not passed on"


def test_compose_takes_no_comment_of_the_example_for_a_value() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert not re.findall(r"^\w+=[ \t]+#.*$", text, re.MULTILINE)


def test_strangers_reach_nothing_by_default() -> None:
    for name, container in compose()["services"].items():
        for port in container.get("ports", ()):
            assert re.search(r":-127\.0\.0\.1:\d+\}:\d+$", port), f"{name} publishes {port}"
    assert compose()["networks"]["inside"] == {"internal": True}
    reachable = {n for n, c in compose()["services"].items() if "outside" in c["networks"]}
    assert "queue" not in reachable
    assert "worker" not in reachable


def test_the_address_that_is_published_is_the_one_the_api_judges() -> None:
    service = compose()["services"]["service"]
    assert service["ports"] == [service["environment"]["PRAXINO_PUBLISHED"] + ":8000"]


# Kubernetes


def test_manifests_follow_the_schemas_of_kubernetes() -> None:
    names = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text("utf-8"))["resources"]
    files = [str(MANIFESTS / name) for name in names]
    check(str(BIN / "kubernetes-validate"), "--strict", "--no-warn", *files)


def test_the_kustomization_names_every_manifest() -> None:
    names = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text("utf-8"))["resources"]
    found = {path.name for path in MANIFESTS.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(names) == found


@pytest.mark.parametrize("name", sorted(pods()))
def test_every_pod_is_walled_in_and_watched(name: str) -> None:
    pod = pods()[name]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "livenessProbe" in container
    assert container["resources"]["limits"]["memory"]


def test_a_worker_told_to_leave_may_finish_any_job() -> None:
    """What keeps a busy pod from being killed, whichever the autoscaler picks."""
    worker = pods()["praxino-worker"]
    drain_s = setting(worker, "PRAXINO_DRAIN_S")
    assert drain_s >= WorkerSettings.model_fields["job_timeout_s"].default
    assert worker["terminationGracePeriodSeconds"] > drain_s
    startup = worker["containers"][0]["startupProbe"]
    load_s = WorkerSettings.model_fields["load_timeout_s"].default
    assert startup["periodSeconds"] * startup["failureThreshold"] > load_s


def test_the_api_serves_on_while_it_drains() -> None:
    service = pods()["praxino-service"]
    graceful_s = 10  # uvicorn's, after the drain
    drain_s = setting(service, "PRAXINO_API_DRAIN_S")
    assert service["terminationGracePeriodSeconds"] > drain_s + graceful_s
    probe = service["containers"][0]["readinessProbe"]
    assert probe["httpGet"]["path"] == "/readyz"
    assert probe["periodSeconds"] * 3 <= drain_s, "unready before it is gone"
    assert service["containers"][0]["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_no_probe_restarts_a_worker_because_the_queue_server_is_away() -> None:
    for name in ("worker", "janitor", "webhooks"):
        probe = pods()[f"praxino-{name}"]["containers"][0]["livenessProbe"]
        assert probe["exec"]["command"] == ["python", "-m", "worker.pulse", name]


def served() -> str:
    """The model of the workers here."""
    (settings,) = (each["data"] for each in manifests() if each["kind"] == "ConfigMap")
    return str(settings["PRAXINO_MODEL"])


def scaler() -> dict[str, Any]:
    found: dict[str, Any] = next(e["spec"] for e in manifests() if e["kind"] == "ScaledObject")
    return found


def test_workers_are_as_many_as_jobs_wait_or_run() -> None:
    modifiers = scaler()["advanced"]["scalingModifiers"]
    assert modifiers["formula"] == "waiting + running"
    assert modifiers["target"] == "1"
    assert [each["name"] for each in scaler()["triggers"]] == ["waiting", "running"]
    assert scaler()["scaleTargetRef"]["name"] in pods()
    assert scaler()["minReplicaCount"] >= 1, "/readyz wants a worker"
    assert scaler()["fallback"]["replicas"] == scaler()["maxReplicaCount"], "nobody is sent home"


def test_the_scaler_reads_what_the_api_tells_of_its_workers_model(
    valkey: Valkey, tmp_path: Path
) -> None:
    settings = JobSettings(redis_url=valkey.url, data_dir=tmp_path)
    redis = web_client(valkey.url)
    collector = StoreCollector(
        JobStore(redis, settings), (served(), "other"), Outbox(redis, settings)
    )
    for model, tiers in ((served(), (Tier.DEFAULT, Tier.FLEX)), ("other", (Tier.DEFAULT,))):
        for tier in tiers:
            lease = {f"{model}-{tier}:token": time.time() + 60}
            redis.zadd(transport.wip_key(transport.queue_name(model, tier)), lease)
    registry = CollectorRegistry()
    registry.register(collector)
    lines = generate_latest(registry).decode().splitlines()
    redis.close()
    given = dict(line.split(" ") for line in lines if line[0] != "#")
    read = {each["name"]: given[each["metadata"]["valueLocation"]] for each in scaler()["triggers"]}
    assert read == {"waiting": "0.0", "running": "2.0"}, "of another model, or not of every tier"
    for trigger in scaler()["triggers"]:
        assert trigger["metadata"]["url"].endswith("/metrics")


def test_secrets_are_never_in_files() -> None:
    assert not [each for each in manifests() if each["kind"] == "Secret"]
    text = "".join(path.read_text(encoding="utf-8") for path in MANIFESTS.rglob("*.yaml"))
    for name in ("PRAXINO_S3_SECRET_ACCESS_KEY", "QUEUE_PASSWORD"):
        for found in re.findall(rf"- name: {name}\n\s+(.+)", text):
            assert found.startswith("valueFrom: {secretKeyRef:"), found


# The proof on an engine


def test_without_an_engine_the_proof_says_what_it_needs(tmp_path: Path) -> None:
    nowhere = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none", "PATH": str(tmp_path)}
    words = (sys.executable, "-m", "tests.containers")
    answer = subprocess.run(
        words, cwd=ROOT, env=nowhere, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1
    assert "needs a Docker engine with Compose v2" in answer.stderr
    assert "Traceback" not in answer.stderr
