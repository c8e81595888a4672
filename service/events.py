"""A job's events as server-sent events: replay after any id, then live, to the end.

The SDKs' parsers set the form: a keep-alive is a comment of one line, an error is never at the top
of the data, and the last data is `[DONE]`.
"""

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.deps import Services, Tenant, Wired
from service.errors import InvalidValue, show
from service.follow import Follower, while_connected
from service.schema import refusals
from service.videos import find, known_shape
from service.wire import PREFIX, Video, to_video
from worker.jobs.contract import TERMINAL, Job, Status
from worker.jobs.events import STREAM_ID, Event, Replay
from worker.jobs.outcomes import JobNotFound

router = APIRouter(tags=["videos"])

KEEP_ALIVE = b": ka\n"
DONE = b"data: [DONE]\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
STREAM: dict[str, dict[str, object]] = {"text/event-stream": {}}  # 3.1 cannot say what events hold


@router.get(
    PREFIX + "/{video_id}/events",
    operation_id="followVideo",
    summary="Follow a video",
    response_class=Response,
    responses={
        200: {"description": "Server-sent events.", "content": STREAM},
        **refusals(400, 401, 404, 429, 503),
    },
)
async def follow_video(
    video_id: str,
    tenant: Tenant,
    services: Wired,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Every change of the job: those after `Last-Event-ID`, or all, then live until it ends."""
    after = (last_event_id or "").strip() or None
    if after is not None and not STREAM_ID.fullmatch(after):
        raise InvalidValue(
            f"Last-Event-ID: must be the id of an event; got {show(after)}", "Last-Event-ID"
        )
    await run_in_threadpool(find, known_shape(video_id), tenant, services)  # else refuse now
    return EventStream(video_id, tenant, after, services)


class EventStream(Response):
    """The answer of one follower. Its end, either side's, releases everything."""

    media_type = "text/event-stream"

    def __init__(self, job_id: str, tenant: str, after: str | None, services: Services) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self.job_id = job_id
        self.tenant = tenant
        self.last = after
        self.seq: int | None = None
        self.services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the job ends or the client hangs up."""
        await while_connected(receive, lambda: self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for chunk in self._chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncIterator[bytes]:
        async with self.services.hub.follow(self.job_id) as follower:
            try:
                async for chunk in self._told(follower):
                    yield chunk
            except JobNotFound:
                return  # deleted meanwhile

    async def _told(self, follower: Follower) -> AsyncIterator[bytes]:
        async for chunk, ended in self._replayed():
            yield chunk
            if ended:
                return
        while not follower.topic.over:
            if not await follower.wait(self.services.settings.keep_alive_s):
                yield KEEP_ALIVE
                continue
            fresh = follower.after(self.last)
            if fresh and self.seq is not None and fresh[0].seq != self.seq + 1:
                async for chunk, ended in self._replayed():  # this client was too slow
                    yield chunk
                    if ended:
                        return
                continue
            for event in fresh:
                yield await self._render(event, event.job)
                if event.job.status in TERMINAL:
                    yield DONE
                    return

    async def _replayed(self) -> AsyncIterator[tuple[bytes, bool]]:
        """What the stream holds, with whether that was the end."""
        log, store = self.services.store.events, self.services.store
        replay: Replay = await run_in_threadpool(log.read, self.job_id, self.last, self.tenant)
        job: Job = await run_in_threadpool(store.get, self.job_id, self.tenant)
        events = list(replay.events)
        if replay.empty and job.status in TERMINAL:
            yield await self._render(None, job, snapshot=True), False  # only the row is left
        elif replay.gap:
            events = events[-1:]  # every event holds the whole job: the newest stands for all
        for event in events:
            shown = await self._placed(event, job) if event is events[-1] else event.job
            yield await self._render(event, shown, snapshot=replay.gap), False
        ended = events[-1].job.status if events else job.status
        if ended in TERMINAL:
            yield DONE, True

    async def _placed(self, event: Event, job: Job) -> Job:
        """The newest event's job, with its place in the queue, which no event knows."""
        if event.job.status is Status.QUEUED and job.status is Status.QUEUED:
            return await run_in_threadpool(self.services.outlook.seen, job)
        return event.job

    async def _render(self, event: Event | None, job: Job, snapshot: bool = False) -> bytes:
        """One event in the form of the wire; a snapshot stands for events that are gone."""
        if event is not None:
            self.last, self.seq = event.id, event.seq
        # The first link of a process needs the queue server, which may let the loop wait.
        video = await run_in_threadpool(to_video, job, self.services.links)
        return render(event, video, snapshot)


def render(event: Event | None, video: Video, snapshot: bool) -> bytes:
    """The lines of one event; None is the row alone, whose events are gone."""
    kind = f"video.{video.status.value}"
    data = {
        "type": kind,
        "sequence_number": 0 if event is None else event.seq,
        **({"snapshot": True} if snapshot else {}),
        "video": video.model_dump(mode="json"),
    }
    lines = [] if event is None else [f"id: {event.id}"]
    lines += [f"event: {kind}", f"data: {json.dumps(data, separators=(',', ':'))}", "", ""]
    return "\n".join(lines).encode()
