"""Who sees nothing but the published port, and what must hold for it."""

import hashlib
import io
import sys
import time
from collections.abc import Callable
from typing import Any

import av
import httpx

from tests.containers.engine import EngineError

JOB_S = 2700.0  # on a busy machine


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def law(holds: bool, text: str) -> None:
    """A law of the deployment. raises EngineError where it is broken"""
    if not holds:
        raise EngineError(f"broken: {text}")
    say(f"holds: {text}")


def until(condition: Callable[[], Any], limit_s: float, what: str) -> Any:
    """Wait for a true value and return it. raises EngineError"""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.5)
    raise EngineError(f"not within {limit_s:.0f} s: {what}")


class Caller:
    """Who sees nothing but the published port."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30.0, trust_env=False)

    def submit(self, body: dict[str, Any]) -> str:
        answer = self._http.post("/v1/videos", json=body)
        refused = "" if answer.status_code == 200 else f": {answer.text[:200]}"
        law(not refused, f"an order is taken{refused}")
        return str(answer.json()["id"])

    def look(self, job: str) -> dict[str, Any]:
        """The job, or nothing while the API is away."""
        try:
            answer = self._http.get(f"/v1/videos/{job}")
        except httpx.TransportError:
            return {"status": "away"}
        found: dict[str, Any] = answer.json()
        return found if answer.status_code == 200 else {"status": "away"}

    def wait(self, job: str) -> dict[str, Any]:
        """The job once it has ended well. raises EngineError"""
        done = ("completed", "failed")
        found = until(lambda: (s := self.look(job))["status"] in done and s, JOB_S, f"{job} ends")
        law(found["status"] == "completed", f"job {job} completes: {found['error']}")
        return dict(found)

    def wait_for_steps(self, job: str) -> None:
        until(lambda: self.look(job).get("progress", 0) >= 5, JOB_S, "a worker is in the middle")

    def film(self, job: str) -> bytes:
        answer = self._http.get(f"/v1/videos/{job}/content")
        law(answer.status_code == 200, "the film can be fetched")
        return answer.content


def check_film(film: bytes, frames: int, sha256: str | None) -> None:
    with av.open(io.BytesIO(film), mode="r") as container:
        shapes = {(frame.width, frame.height) for frame in container.decode(video=0)}
        container.seek(0)
        count = sum(1 for _ in container.decode(video=0))
    law((count, shapes) == (frames, {(64, 64)}), f"the film has {frames} frames of 64x64")
    law(sha256 == hashlib.sha256(film).hexdigest(), "the film is the one that was made")
