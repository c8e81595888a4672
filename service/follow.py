"""Who follows which job: one subscription per process wakes every follower of every job.

A thread listens, reads a job's new events once and hands them to all of its followers on the
event loop. It runs only while somebody follows. Events themselves are kept by the queue server, so
a follower that falls behind, or an outage, loses none.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import structlog
from redis.exceptions import RedisError
from starlette.types import Receive

from worker.jobs.events import Event, EventLog, order
from worker.jobs.outcomes import JobNotFound

log = structlog.get_logger(__name__)

LISTEN_S = 0.5  # how long the thread may overlook that nobody follows any more
REST_S = 0.5  # after the queue server was away
RECENT = 256  # events of a job kept for its followers


@dataclass
class Topic:
    """One followed job. Events and followers are touched on the event loop only."""

    job_id: str
    loop: asyncio.AbstractEventLoop
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=RECENT))
    followers: "set[Follower]" = field(default_factory=set)
    over: bool = False  # the job was deleted, or the process leaves
    cursor: str | None = None  # last event read; the thread's own

    def tell(self, events: tuple[Event, ...], over: bool) -> None:
        """Hand new events to all followers."""
        self.events.extend(events)
        self.over = self.over or over
        for follower in self.followers:
            follower.news.set()


class Follower:
    """One client's view of a topic."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.news = asyncio.Event()

    async def wait(self, timeout_s: float) -> bool:
        """Whether anything happened within the time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.news.wait()
        except TimeoutError:
            return False
        self.news.clear()
        return True

    def after(self, last: str | None) -> list[Event]:
        """The recent events after one id, oldest first."""
        known = self.topic.events
        return [event for event in known if last is None or order(event.id) > order(last)]


class Hub:
    """All followers of one process."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._topics: dict[str, Topic] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextlib.asynccontextmanager
    async def follow(self, job_id: str) -> AsyncIterator[Follower]:
        """Be woken at every event of a job from now on. Read the stream afterwards, not before."""
        topic = self._join(job_id)
        follower = Follower(topic)
        topic.followers.add(follower)
        try:
            yield follower
        finally:
            topic.followers.discard(follower)
            with self._lock:
                if not topic.followers and self._topics.get(job_id) is topic:
                    del self._topics[job_id]

    def close(self) -> None:
        """End every follower's wait, for good."""
        self._closed.set()
        with self._lock:
            topics, thread = list(self._topics.values()), self._thread
        for topic in topics:
            self._tell(topic, (), True)
        if thread is not None:
            thread.join()

    def _join(self, job_id: str) -> Topic:
        with self._lock:
            topic = self._topics.get(job_id)
            if topic is None:
                loop = asyncio.get_running_loop()
                topic = Topic(job_id, loop, over=self._closed.is_set())
                self._topics[job_id] = topic
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._listen, name="follow", daemon=True)
                self._thread.start()
            return topic

    def _wanted(self) -> bool:
        """Whether the thread is to go on; with the answer no, it is forgotten."""
        with self._lock:
            if self._topics and not self._closed.is_set():
                return True
            self._thread = None
            return False

    def _listen(self) -> None:
        while self._wanted():
            try:
                self._hear()
            except RedisError:
                self._closed.wait(REST_S)

    def _hear(self) -> None:
        wakes = self._log.wakes()
        try:
            wakes.next(LISTEN_S)  # the subscription holds from here on
            for topic in self._followed():
                self._read(topic)
            while self._followed() and not self._closed.is_set():
                job_id = wakes.next(LISTEN_S)
                woken = self._topics.get(job_id) if job_id else None
                if woken is not None:
                    self._read(woken)
        finally:
            wakes.close()

    def _followed(self) -> list[Topic]:
        with self._lock:
            return list(self._topics.values())

    def _read(self, topic: Topic) -> None:
        try:
            events = self._log.read(topic.job_id, topic.cursor).events
        except JobNotFound:
            self._tell(topic, (), True)
            return
        except ValueError as error:  # a row that cannot be read must not end the others' feeds
            facts = {"job_id": topic.job_id, "tenant": self._log.owner(topic.job_id)}
            log.error("events.unreadable", error=type(error).__name__, **facts)
            self._tell(topic, (), True)
            return
        if events:
            topic.cursor = events[-1].id
            self._tell(topic, events, False)

    def _tell(self, topic: Topic, events: tuple[Event, ...], over: bool) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and everybody with it
            topic.loop.call_soon_threadsafe(topic.tell, events, over)


async def while_connected(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Do the work, and drop it as soon as the client hangs up; its body must have been read.

    raises what the work raises
    """
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            await work()
        except Exception as error:  # raised below, out of the group, which would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
