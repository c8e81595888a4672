"""The API from outside, on httpx: what the command line, the demo and the benchmark speak.

It knows the wire and nothing of the server's code; see `http-api` in README.md for the fields.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Required, TypedDict, cast

import httpx

POLL_S = 0.25
WAIT_S = 30  # for one answer that comes when a job has ended
TERMINAL = ("completed", "failed")


class VideoError(TypedDict):
    """Why a job failed."""

    code: str
    message: str


class Video(TypedDict, total=False):
    """The keys of the Video object that this side reads."""

    id: Required[str]
    status: Required[str]
    progress: Required[int]
    created_at: int
    completed_at: int | None
    model: str
    prompt: str
    seconds: str
    size: str
    error: VideoError | None
    stage: str
    queue_position: int | None
    eta_seconds: float | None
    seed: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    sampler: str
    fps: int
    task_type: str
    quality: str | None
    shots: list[dict[str, Any]]


class ServiceError(Exception):
    """The service answered with an error envelope; the message is the service's own."""

    def __init__(self, status: int, code: str | None, message: str, param: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


class Unreachable(Exception):
    """No service answers at the base URL."""


class JobFailed(Exception):
    """A job ended otherwise than asked; the message is the service's own where it has one."""


def completed(video: Video) -> Video:
    """The job itself if it completed; raises JobFailed otherwise."""
    if video["status"] == "completed":
        return video
    error = video.get("error")
    reason = f"{error['code']}: {error['message']}" if error else f"it is {video['status']}"
    raise JobFailed(f"{video['id']} did not complete: {reason}")


class Client:
    """A connection to one service; use it as a context manager.

    base_url  without `/v1`, for example `http://127.0.0.1:8000`
    """

    def __init__(self, base_url: str, api_key: str | None = None, timeout_s: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.base_url = base_url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.base_url, headers=headers, timeout=timeout_s, trust_env=False
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def create(self, prompt: str | None = None, **fields: object) -> Video:
        """Submit a job; fields that are None are left to the service's defaults."""
        asked = {"prompt": prompt, **fields}
        body = {name: value for name, value in asked.items() if value is not None}
        return cast(Video, self._call("POST", "/v1/videos", json=body))

    def upload(self, path: Path) -> str:
        """Keep a picture or clip on the server; its id, to name it by."""
        with path.open("rb") as file:
            sent = {"data": {"purpose": "user_data"}, "files": {"file": (path.name, file)}}
            return str(self._call("POST", "/v1/files", **sent)["id"])

    def delete_file(self, file_id: str) -> None:
        """Forget an uploaded file; jobs that were made with it keep their copies."""
        self._call("DELETE", f"/v1/files/{file_id}")

    def retrieve(self, video_id: str) -> Video:
        """The job as it stands."""
        return cast(Video, self._call("GET", f"/v1/videos/{video_id}"))

    def settled(self, video: Video) -> Video:
        """Wait until the job has ended, without asking again and again (`Prefer: wait`).

        returns  the job as it ended, completed or failed
        """
        options: dict[str, Any] = {"headers": {"Prefer": f"wait={WAIT_S}"}, "timeout": 2 * WAIT_S}
        while video["status"] not in TERMINAL:
            video = cast(Video, self._call("GET", f"/v1/videos/{video['id']}", **options))
        return video

    def cancel(self, video_id: str) -> Video:
        """Ask a job to stop; a running one ends at its next step."""
        return cast(Video, self._call("POST", f"/v1/videos/{video_id}/cancel"))

    def delete(self, video_id: str) -> None:
        """Cancel the job if it is active and forget it with its files."""
        self._call("DELETE", f"/v1/videos/{video_id}")

    def videos(self, limit: int, status: str | None = None) -> Iterator[Video]:
        """Up to `limit` jobs, newest first."""
        after: str | None = None
        while limit > 0:
            asked: dict[str, str | int] = {"limit": min(limit, 100)}
            asked |= {"after": after} if after else {}
            asked |= {"status": status} if status else {}
            page = self._call("GET", "/v1/videos", params=asked)
            yield from page["data"][:limit]
            limit -= len(page["data"])
            after = page["last_id"]
            if not page["has_more"]:
                return

    def models(self) -> list[dict[str, Any]]:
        """The models on offer, with their limits."""
        return cast(list[dict[str, Any]], self._call("GET", "/v1/videos/models")["data"])

    def follow(
        self, video: Video, on_change: Callable[[Video], None], every_s: float = POLL_S
    ) -> Video:
        """Poll until the job has ended, calling `on_change` with every answer.

        returns  the job as it ended, completed or failed
        """
        on_change(video)
        while video["status"] not in TERMINAL:
            time.sleep(every_s)
            video = self.retrieve(video["id"])
            on_change(video)
        return video

    def download(self, video_id: str, path: Path, variant: str = "video") -> None:
        """Write a result's bytes to `path`, which appears only once it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        url = f"/v1/videos/{video_id}/content"
        try:
            # The files may be in an object store; the key is not sent along to another host.
            with self._http.stream(
                "GET", url, params={"variant": variant}, follow_redirects=True
            ) as answer:
                if answer.is_error:
                    answer.read()
                    raise read_error(answer)
                with part.open("wb") as file:
                    for chunk in answer.iter_bytes():
                        file.write(chunk)
            part.replace(path)
        except httpx.TransportError as error:
            raise Unreachable(f"lost the service at {self.base_url}: {error}") from error
        finally:
            part.unlink(missing_ok=True)

    def _call(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, url, **options)
        except httpx.TransportError as error:
            raise Unreachable(f"no service answers at {self.base_url}: {error}") from error
        if answer.is_error:
            raise read_error(answer)
        return cast(dict[str, Any], answer.json())


def read_error(answer: httpx.Response) -> ServiceError:
    """The error in an answer, also when something in between did not write our envelope."""
    try:
        body = answer.json()["error"]
        return ServiceError(answer.status_code, body["code"], body["message"], body["param"])
    except (ValueError, KeyError, TypeError):
        text = f"{answer.status_code} {answer.reason_phrase}: {answer.text[:200]}"
        return ServiceError(answer.status_code, None, text, None)
