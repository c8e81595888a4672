"""The audit of the proof under fire finds what was lost, doubled or leaked, and nothing else."""

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import pytest
from redis import Redis

from tests.chaos.audit import Audit, Findings
from tests.chaos.clients import Ledger, Order, client
from tests.outside import Receiver
from tests.service.conftest import Hand, Running
from worker.jobs import keys, transport
from worker.jobs.artifacts import ArtifactStore, artifact_prefix
from worker.jobs.callers import CallerBook
from worker.jobs.contract import ErrorCode
from worker.jobs.settings import JobSettings
from worker.jobs.store import JobStore

OWNER, OTHER = "acme", "borealis"


@dataclass
class Ground:
    """A service without workers, and what its tenants have ordered."""

    url: str
    keys: dict[str, str]
    receiver: Receiver
    redis: Redis
    store: JobStore
    artifacts: ArtifactStore
    settings: JobSettings
    hand: Hand
    ledger: Ledger

    def order(self, tenant: str = OWNER, *, told: bool = True) -> str:
        """A job of a tenant, written down if its tenant was told of it."""
        with client(self.url, self.keys[tenant]) as http:
            job_id = str(http.post("/v1/videos", json={"prompt": "a fox"}).json()["id"])
        if told:
            self.ledger.add(Order(tenant, "text", None, calls=False, ids={job_id}))
        return job_id

    def audit(self) -> Findings:
        return Audit(self, self.ledger).run()


@pytest.fixture
def ground(api: Running, hand: Hand, redis: Redis, plain_receiver: Receiver) -> Ground:
    """One finished job of each of two tenants."""
    settings = api.settings
    shutil.rmtree(settings.artifacts_dir, ignore_errors=True)  # what other tests stored
    book = CallerBook(redis)
    held = {name: book.create(name, name) for name in (OWNER, OTHER)}
    made = Ground(
        api.url, held, plain_receiver, redis, hand.store, hand.artifacts, settings, hand, Ledger()
    )
    for tenant in held:
        finish(made, made.order(tenant))
    return made


def finish(ground: Ground, job_id: str) -> None:
    """Complete a job and leave nothing behind."""
    job, token = ground.hand.start(job_id)
    assert ground.hand.publish(job, token)
    ground.redis.zrem(transport.wip_key(transport.queue_name("pocket")), f"{job_id}:{token}")


def first(ground: Ground) -> str:
    return ground.ledger.accepted[0][0]


def film(ground: Ground, job_id: str) -> str:
    """The key of a job's film."""
    result = ground.store.get(job_id).result
    assert result is not None
    return result.video.key


def leave_waiting(ground: Ground) -> None:
    ground.order()


def fail_for_nothing(ground: Ground) -> None:
    ground.hand.fail(ground.order(), ErrorCode.INTERNAL_ERROR, "who knows")


def forget_row(ground: Ground) -> None:
    ground.redis.delete(keys.job(first(ground)))


def lose_film(ground: Ground) -> None:
    ground.artifacts.delete_prefix(film(ground, first(ground)).rsplit("/", 1)[0])


def change_film(ground: Ground) -> None:
    ground.artifacts.put_file(film(ground, first(ground)), ground.hand.thumbnail)


def call_nobody(ground: Ground) -> None:
    ground.ledger.orders[0].calls = True


def answer_one_order_twice(ground: Ground) -> None:
    again = ground.order(told=False)
    finish(ground, again)
    ground.ledger.orders[0].ids.add(again)


def make_what_nobody_ordered(ground: Ground) -> None:
    finish(ground, ground.order(told=False))


def make_film_twice(ground: Ground) -> None:
    job = ground.store.get(first(ground))
    key = artifact_prefix(job, uuid4().hex) + "video.mp4"
    ground.artifacts.put_file(key, ground.hand.clip)


def end_twice(ground: Ground) -> None:
    stream = keys.events(first(ground))
    last = ground.redis.xrevrange(stream, count=1)[0][1]
    ground.redis.xadd(stream, last)


def leave_a_file(ground: Ground) -> None:
    key = f"{OWNER}/video_{uuid4().hex}/{uuid4().hex}/thumbnail.webp"
    ground.artifacts.put_file(key, ground.hand.thumbnail)


def leave_a_lease(ground: Ground) -> None:
    wip = transport.wip_key(transport.queue_name("pocket"))
    ground.redis.zadd(wip, {f"{first(ground)}:{uuid4().hex}": 1e12})


def leave_a_slot(ground: Ground) -> None:
    ground.redis.sadd(keys.tenant_active(OWNER), first(ground))


def show_it_to_another(ground: Ground) -> None:
    ground.redis.hset(keys.job(first(ground)), "tenant", OTHER)


def share_a_film(ground: Ground) -> None:
    ground.redis.hset(keys.job(first(ground)), "made_by", ground.ledger.accepted[1][0])


def test_what_went_well_is_clean(ground: Ground) -> None:
    assert ground.audit() == Findings(ended=Counter(completed=2))


@pytest.mark.parametrize(
    ("kind", "plant"),
    [
        ("lost", leave_waiting),
        ("lost", fail_for_nothing),
        ("lost", forget_row),
        ("lost", lose_film),
        ("lost", change_film),
        ("lost", call_nobody),
        ("doubled", answer_one_order_twice),
        ("doubled", make_what_nobody_ordered),
        ("doubled", make_film_twice),
        ("doubled", end_twice),
        ("leaked", leave_a_file),
        ("leaked", leave_a_lease),
        ("leaked", leave_a_slot),
        ("leaked", show_it_to_another),
        ("leaked", share_a_film),
    ],
)
def test_a_planted_fault_is_found(
    ground: Ground, kind: str, plant: Callable[[Ground], None]
) -> None:
    plant(ground)
    found = ground.audit()
    assert getattr(found, kind), found
    assert not found.clean
