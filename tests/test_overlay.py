"""The overlay for GPUs: what `kubectl apply -k deploy/kubernetes-gpu` would apply."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_deployment import BIN, MANIFESTS, ROOT, check, manifests, step_of
from worker.settings import WorkerSettings

OVERLAY = MANIFESTS.with_name("kubernetes-gpu")
WORKER = "praxino-worker"

Documents = list[dict[str, Any]]


def patched(plain: Any, patch: Any) -> Any:
    """A strategic merge, as far as pods go: fields one by one, lists of named things by name,
    the patch's first, everything else replaced."""
    if isinstance(plain, dict) and isinstance(patch, dict):
        return plain | {key: patched(plain.get(key), value) for key, value in patch.items()}
    if isinstance(plain, list) and all(isinstance(each, dict) for each in patch):
        kept = {each["name"]: each for each in plain}
        changed = {each["name"]: patched(kept.get(each["name"]), each) for each in patch}
        return list((changed | {name: kept[name] for name in kept if name not in changed}).values())
    return patch


def overlaid() -> Documents:
    """Every document of the overlay: those of the base, patched."""
    overlay = yaml.safe_load((OVERLAY / "kustomization.yaml").read_text(encoding="utf-8"))
    assert [(OVERLAY / each).resolve() for each in overlay["resources"]] == [MANIFESTS]
    assert set(overlay) == {"apiVersion", "kind", "resources", "patches"}, "all that is merged here"
    documents = manifests()
    for each in overlay["patches"]:
        kind, name = each["target"]["kind"], each["target"]["name"]
        patch = yaml.safe_load(each["patch"])
        hit = [(it["kind"], it["metadata"]["name"]) == (kind, name) for it in documents]
        assert hit.count(True) == 1, f"{kind} {name} is not there"
        documents[hit.index(True)] = patched(documents[hit.index(True)], patch)
    return documents


def worker_of(documents: Documents) -> dict[str, Any]:
    return next(each for each in documents if each["metadata"]["name"] == WORKER)


def container_of(worker: dict[str, Any]) -> dict[str, Any]:
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    return dict(container)


def test_the_overlay_lies_beside_its_base() -> None:
    """Kustomize refuses one within it: a cycle."""
    assert OVERLAY.is_dir()
    assert not list(MANIFESTS.rglob("*/kustomization.yaml"))


def test_the_overlay_follows_the_schemas_of_kubernetes(tmp_path: Path) -> None:
    made = tmp_path / "overlay.yaml"
    made.write_text(yaml.safe_dump_all(overlaid()), encoding="utf-8")
    check(str(BIN / "kubernetes-validate"), "--strict", "--no-warn", str(made))


def test_each_worker_has_a_gpu_and_nothing_else_of_the_base_is_changed() -> None:
    """So its probes, grace, user and walls are those that the base is tested for."""
    base, overlay = manifests(), overlaid()
    assert [each for each in overlay if each not in base] == [worker_of(overlay)]
    before, after = container_of(worker_of(base)), container_of(worker_of(overlay))
    resources, settings = after.pop("resources"), after.pop("env")
    assert resources["limits"]["nvidia.com/gpu"] == 1
    assert resources["requests"] == before.pop("resources")["requests"]
    changed = [each for each in settings if each not in before["env"]]
    assert changed == [{"name": "PRAXINO_DEVICE", "value": "cuda"}]
    assert len(settings) == len(before.pop("env"))
    assert after == before
    for document in (base, overlay):
        worker_of(document)["spec"]["template"]["spec"]["containers"] = []
    assert worker_of(overlay) == worker_of(base)


def test_the_image_of_the_overlay_is_built_with_cuda_by_default() -> None:
    assert "device" in WorkerSettings.model_fields, "nobody reads PRAXINO_DEVICE"
    stage = container_of(worker_of(overlaid()))["image"].removeprefix("praxino-")
    torch = step_of(stage, "torch==")
    script = f'pip() {{ printf "%s " "$@"; }}; {torch}'

    def asked(version: str) -> list[str]:
        words = ("sh", "-ec", script)
        given = {"TORCH_VERSION": version}
        made = subprocess.run(words, env=given, capture_output=True, text=True, check=True)
        return re.findall(r"torch\S+", made.stdout)

    assert asked("") == [], "the index's own, which is with CUDA"
    assert asked("2.13.0+cpu") == ["torch==2.13.0+cpu"]
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG TORCH_VERSION$", text, re.MULTILINE), "it has a default"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
def test_kubectl_makes_the_same_of_the_overlay() -> None:
    words = ("kubectl", "kustomize", str(OVERLAY))
    made = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    named = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(made)}
    ours = worker_of(overlaid())
    assert named["Deployment", WORKER]["spec"] == ours["spec"]
    assert len(named) == len(overlaid())
