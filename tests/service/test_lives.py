"""Whatever two tenants and a worker do, in any order: each tenant sees its own jobs, truthfully.

A state machine over HTTP, against a model of what each must see. PRAXINO_LIVES is how many
sequences of calls are tried; `make fuzz` tries many.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from worker.jobs import keys, transport
from worker.jobs.callers import CallerBook
from worker.jobs.contract import ErrorCode, Job, JobError, Progress, Stage

LIVES = int(os.environ.get("PRAXINO_LIVES", "0"))  # 0: the slice
TENANTS = ("studio", "lab")
VARIANTS = ("video", "thumbnail", "spritesheet", "last_frame")
ENDED = ("completed", "failed")
# What a client may see of one job, one look after the other.
NEXT = {
    "queued": {"queued", "in_progress", *ENDED},
    "in_progress": {"in_progress", "queued", *ENDED},  # queued again: given back by its worker
    "completed": {"completed"},
    "failed": {"failed"},
}
VOLATILE = ("eta_seconds", "queue_position")  # they depend on others, and on the time
WHO = st.sampled_from(TENANTS)


@dataclass
class Life:
    """What must be true of one job."""

    owner: str
    prompt: str
    last_frame: bool
    status: str = "queued"
    error: str | None = None
    flagged: bool = False  # a cancel was asked of its worker
    deleted: bool = False
    expired: bool = False
    job: Job | None = None  # as its worker got it
    exec: str = ""  # of the running attempt
    lost: list[str] = field(default_factory=list)  # attempts that no longer own it
    step: int = 0
    seen: dict[str, Any] = field(default_factory=dict)  # the last look at it

    def end(self, status: str, error: str | None = None) -> None:
        """The job is over."""
        self.status, self.error = status, error
        self.lost += [self.exec] if self.exec else []
        self.exec = ""


class Lives(RuleBasedStateMachine):
    """Two tenants, one queue, one worker played by hand."""

    clients: ClassVar[dict[str, httpx.Client]]
    stranger: ClassVar[httpx.Client]
    redis: ClassVar[Redis]
    hand: ClassVar[Any]

    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.lives: dict[str, Life] = {}  # in the order in which they were created

    @initialize(target=jobs)
    def begin(self) -> Any:
        """Nobody has anything, then each tenant a job."""
        self.redis.flushall()
        book = CallerBook(self.redis)
        for who, client in self.clients.items():
            client.headers["Authorization"] = f"Bearer {book.create(f'key-{who}', who)}"
        return multiple(*(self.order(who, last_frame=True) for who in TENANTS))

    # The tenants

    @rule(target=jobs, who=WHO, last_frame=st.booleans())
    def create(self, who: str, last_frame: bool) -> str:
        return self.order(who, last_frame)

    def order(self, who: str, last_frame: bool) -> str:
        prompt = f"a film of {who}, number {len(self.lives)}"
        body = {"prompt": prompt, "return_last_frame": last_frame}
        made = self.ask(who, "POST", "", json=body)
        assert made.status_code == 200, made.text
        job_id = str(made.json()["id"])
        assert job_id not in self.lives
        self.lives[job_id] = Life(who, prompt, last_frame)
        self.check(job_id, made.json())
        return job_id

    @rule(who=WHO, job_id=jobs)
    def retrieve(self, who: str, job_id: str) -> None:
        answer = self.ask(who, "GET", f"/{job_id}")
        if self.refused(who, job_id, answer):
            return
        assert answer.status_code == 200
        self.check(job_id, answer.json())

    @rule(who=WHO, job_id=jobs)
    def cancel(self, who: str, job_id: str) -> None:
        life = self.lives[job_id]
        answer = self.ask(who, "POST", f"/{job_id}/cancel")
        if self.refused(who, job_id, answer):
            return
        if life.status in ENDED and life.error != "cancelled":
            assert code(answer) == (409, "video_not_cancellable")
            return
        if life.status == "queued":
            life.end("failed", "cancelled")
        life.flagged = True
        assert answer.status_code == 200
        self.check(job_id, answer.json())

    @rule(who=WHO, job_id=jobs)
    def delete(self, who: str, job_id: str) -> None:
        life = self.lives[job_id]
        answer = self.ask(who, "DELETE", f"/{job_id}")
        if who != life.owner:
            assert code(answer) == (404, "video_not_found")
            return
        # Once more is fine: the answer to the first may have been lost.
        assert (answer.status_code, answer.json()["deleted"]) == (200, True)
        life.deleted = life.flagged = True
        if life.status == "queued":
            life.end("failed", "cancelled")

    @rule(who=WHO, job_id=jobs, variant=st.sampled_from(VARIANTS))
    def download(self, who: str, job_id: str, variant: str) -> None:
        life = self.lives[job_id]
        answer = self.ask(who, "GET", f"/{job_id}/content", params={"variant": variant})
        if self.refused(who, job_id, answer):
            return
        if life.status != "completed" or (variant == "last_frame" and not life.last_frame):
            wanted = (410, "video_expired") if life.expired else (404, "video_not_ready")
            assert code(answer) == wanted
        elif life.expired:
            assert code(answer) == (410, "video_expired")
        else:
            assert answer.status_code == 200
            assert answer.content

    @rule(job_id=jobs)
    def follow_link(self, job_id: str) -> None:
        """Whoever holds a link needs no key, as long as the job is there."""
        life = self.lives[job_id]
        if not life.seen.get("url"):
            return
        answer = self.stranger.get(life.seen["url"])
        if life.deleted:
            assert code(answer) == (404, "video_not_found")
        else:
            assert answer.status_code == (410 if life.expired else 200)

    @rule(who=WHO, job_id=jobs)
    def replay_events(self, who: str, job_id: str) -> None:
        if self.lives[job_id].status not in ENDED:
            return  # it would last until the end
        answer = self.ask(who, "GET", f"/{job_id}/events")
        if not self.refused(who, job_id, answer):
            assert answer.text.endswith("data: [DONE]\n\n")
            assert f"event: video.{self.lives[job_id].status}" in answer.text

    @rule(who=WHO, limit=st.integers(1, 4), newest_first=st.booleans())
    def list_pages(self, who: str, limit: int, newest_first: bool) -> None:
        """Pages hold each of the caller's jobs once, as a retrieve shows it."""
        order = "desc" if newest_first else "asc"
        listed: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        while True:
            page = self.ask(who, "GET", "", params={"limit": limit, "order": order, **after}).json()
            assert len(page["data"]) <= limit
            listed += page["data"]
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        wanted = self.owned(who)
        assert [video["id"] for video in listed] == wanted[:: -1 if newest_first else 1]
        for video in listed:
            self.check(video["id"], video)
            assert stable(self.ask(who, "GET", f"/{video['id']}").json()) == stable(video)

    @rule(who=WHO, status=st.sampled_from(sorted(NEXT)))
    def list_by_status(self, who: str, status: str) -> None:
        page = self.ask(who, "GET", "", params={"status": status, "order": "asc", "limit": 100})
        wanted = [one for one in self.owned(who) if self.lives[one].status == status]
        assert [video["id"] for video in page.json()["data"]] == wanted

    @rule(who=WHO, job_id=jobs)
    def list_after(self, who: str, job_id: str) -> None:
        answer = self.ask(who, "GET", "", params={"after": job_id, "order": "asc", "limit": 100})
        if who != self.lives[job_id].owner:
            assert code(answer) == (400, "invalid_value")
            return
        ids = list(self.lives)
        later = set(ids[ids.index(job_id) + 1 :])  # a deleted job still has its place
        wanted = [one for one in self.owned(who) if one in later]
        assert [video["id"] for video in answer.json()["data"]] == wanted

    # The worker

    @rule(job_id=jobs)
    def claim(self, job_id: str) -> None:
        life = self.lives[job_id]
        if life.status == "queued":
            life.job, life.exec = self.hand.start(job_id)
            life.status, life.step = "in_progress", 0

    @rule(job_id=jobs, steps=st.integers(1, 5))
    def report(self, job_id: str, steps: int) -> None:
        life = self.lives[job_id]
        if life.exec:
            life.step = min(life.step + steps, 20)
            progress = Progress(stage=Stage.DENOISING, step=life.step, total=20, eta_s=1.5)
            assert self.hand.store.report(job_id, life.exec, progress)

    @rule(job_id=jobs)
    def complete(self, job_id: str) -> None:
        life = self.lives[job_id]
        if life.exec:
            # Nobody may keep the files of a deleted job.
            assert self.hand.publish(life.job, life.exec) is not life.deleted
            life.end(*(("failed", "cancelled") if life.deleted else ("completed", None)))

    @rule(job_id=jobs, why=st.sampled_from([ErrorCode.OUT_OF_MEMORY, ErrorCode.CANCELLED]))
    def fail(self, job_id: str, why: ErrorCode) -> None:
        life = self.lives[job_id]
        if life.exec:
            error = JobError(code=why, message="The model gave up.")
            assert self.hand.store.fail(job_id, life.exec, error)
            life.end("failed", why.value)

    @rule(job_id=jobs)
    def give_back(self, job_id: str) -> None:
        """A worker that leaves gives its job back; one that was to be cancelled ends there."""
        life = self.lives[job_id]
        if not life.exec:
            return
        assert self.hand.store.requeue(job_id, life.exec, "drained", counts=False)
        self.hand.store.rescue(job_id, transport.queue_name("pocket"))
        if life.flagged:
            life.end("failed", "cancelled")
        else:
            life.lost.append(life.exec)
            life.status, life.exec = "queued", ""

    @rule(job_id=jobs)
    def speak_too_late(self, job_id: str) -> None:
        """What an attempt says that lost its job changes nothing."""
        for exec in self.lives[job_id].lost:
            progress = Progress(stage=Stage.DENOISING, step=1, total=20, eta_s=None)
            assert not self.hand.store.report(job_id, exec, progress)

    # Time

    @rule(job_id=jobs)
    def let_content_expire(self, job_id: str) -> None:
        life = self.lives[job_id]
        if life.status == "completed" and not life.deleted:
            self.redis.hset(keys.job(job_id), "expires_at", time.time() - 1)
            life.expired = True

    @rule(job_id=jobs)
    def let_wait_expire(self, job_id: str) -> None:
        life = self.lives[job_id]
        if life.status == "queued":
            self.redis.hset(keys.job(job_id), "queue_deadline", time.time() - 1)
            assert self.hand.store.expire_overdue() == {job_id: "expired"}
            life.end("failed", "expired")

    # What always holds

    @invariant()
    def each_tenant_sees_its_own_jobs(self) -> None:
        for who in TENANTS:
            page = self.ask(who, "GET", "", params={"limit": 100, "order": "asc"}).json()
            assert [video["id"] for video in page["data"]] == self.owned(who)
            for video in page["data"]:
                self.check(video["id"], video)

    def ask(self, who: str, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self.clients[who].request(method, f"/v1/videos{path}", **options)
        for other in set(TENANTS) - {who}:
            assert f"film of {other}" not in answer.text, "another tenant's prompt leaked"
        return answer

    def owned(self, who: str) -> list[str]:
        """The jobs a tenant must see, oldest first."""
        return [
            job_id for job_id, life in self.lives.items() if life.owner == who and not life.deleted
        ]

    def refused(self, who: str, job_id: str, answer: httpx.Response) -> bool:
        """Whether the job must not exist for the caller; then the answer must say so."""
        life = self.lives[job_id]
        if who == life.owner and not life.deleted:
            return False
        assert code(answer) == (404, "video_not_found")
        return True

    def check(self, job_id: str, video: dict[str, Any]) -> None:
        """A look at a job against what must be true of it, and against the look before."""
        life = self.lives[job_id]
        assert video["prompt"] == life.prompt
        assert video["status"] == life.status
        assert (video["error"] or {}).get("code") == life.error
        assert (video["url"] is not None) == (life.status == "completed" and not life.expired)
        assert (video["progress"] == 100) == (life.status == "completed")
        assert (video["queue_position"] is not None) == (life.status == "queued")
        before, life.seen = life.seen, video
        if not before:
            return
        assert video["status"] in NEXT[before["status"]]
        if before["status"] in ENDED and not life.expired:
            assert stable(video) == stable(before)
        if (before["status"], before["attempt"]) == (video["status"], video["attempt"]):
            assert video["progress"] >= before["progress"]


def stable(video: dict[str, Any]) -> dict[str, Any]:
    """What of a look two looks at the same moment agree on."""
    return {name: value for name, value in video.items() if name not in VOLATILE}


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.fixture
def machine(api: Any, redis: Redis, hand: Any) -> Iterator[type[Lives]]:
    with contextlib.ExitStack() as stack:
        stranger, *known = [stack.enter_context(api.client()) for _ in ("", *TENANTS)]
        clients = dict(zip(TENANTS, known, strict=True))
        real = {"clients": clients, "stranger": stranger, "redis": redis, "hand": hand}
        yield type("TheseLives", (Lives,), real)


def test_every_tenant_sees_its_own_jobs_and_only_what_is_possible(machine: type[Lives]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=LIVES or 8,
            stateful_step_count=100 if LIVES else 30,
            derandomize=not LIVES,
            database=None,
            phases=tuple(Phase) if LIVES else (Phase.generate,),  # shrinking takes minutes
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
