"""Equal requests of a tenant share one run: who follows whom, and what becomes of followers."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.worker.jobs.conftest import Bench
from worker.jobs import keys, transport
from worker.jobs.artifacts import (
    SIDECAR,
    THUMBNAIL,
    VIDEO,
    ArtifactStore,
    artifact_prefix,
    open_store,
)
from worker.jobs.contract import ErrorCode, Job, JobError, JobResult, Status, Tier
from worker.jobs.outcomes import QueueFull, TenantFull
from worker.jobs.settings import JobSettings
from worker.jobs.sharing import Sharing
from worker.jobs.store import JobStore

SHARE = "ab" * 32
WEIGHTS = "cd" * 32


@pytest.fixture(params=["disk", "s3"])
def artifacts(request: pytest.FixtureRequest, job_settings: JobSettings) -> ArtifactStore:
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return open_store(job_settings)


@pytest.fixture
def sharing(store: JobStore, artifacts: ArtifactStore) -> Sharing:
    return Sharing(store, artifacts)


def put_result(job: Job, exec: str, artifacts: ArtifactStore, folder: Path) -> JobResult:
    prefix, stored = artifact_prefix(job, exec), {}
    for name, text in ((VIDEO, "film"), (THUMBNAIL, "small"), (SIDECAR, '{"job_id": "x"}')):
        (folder / name).write_text(text)
        stored[name] = artifacts.put_file(prefix + name, folder / name)
    return JobResult(
        video=stored[VIDEO],
        thumbnail=stored[THUMBNAIL],
        sidecar=stored[SIDECAR],
        model_sha256=WEIGHTS,
        stage_seconds={"denoising": 2.0},
        peak_memory_mb=5.0,
    )


def run(bench: Bench, job: Job, artifacts: ArtifactStore, folder: Path) -> None:
    """Do what a worker does with a job, up to its publication."""
    claim = bench.claim(job.id, f"exec-{job.id}")
    assert claim.job is not None, claim.refused
    result = put_result(claim.job, f"exec-{job.id}", artifacts, folder)
    assert bench.store.complete(job.id, f"exec-{job.id}", result)


def waiting(bench: Bench) -> list[str]:
    return bench.store.waiting("pocket")


def content(artifacts: ArtifactStore, job: Job) -> bytes:
    assert job.result is not None, job
    with artifacts.open(job.result.video.key) as file:
        return file.read()


def test_equal_requests_are_one_run_with_a_row_and_files_each(
    bench: Bench, sharing: Sharing, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    first, *others = (bench.submit(share=SHARE) for _ in range(3))
    assert waiting(bench) == [first.id]
    assert [job.cached for job in (first, *others)] == [False, True, True]
    run(bench, first, artifacts, tmp_path)
    assert bench.store.get(others[0].id).status is Status.QUEUED
    assert sharing.hand_out(first.id) == 2
    assert sharing.hand_out(first.id) == 0
    ended = [bench.store.get(job.id) for job in (first, *others)]
    assert [job.status for job in ended] == [Status.COMPLETED] * 3
    assert [job.cached for job in ended] == [False, True, True]
    assert len({job.result.video.key for job in ended if job.result}) == 3
    assert [content(artifacts, job) for job in ended] == [b"film"] * 3
    result = ended[1].result
    assert result is not None
    with artifacts.open(result.sidecar.key) as file:
        assert json.load(file) == {"job_id": others[0].id, "made_by_job_id": first.id}
    tally = bench.store.tally()
    assert tally.reused == {("text", "pocket"): 2}
    assert tally.finished == {("text", "pocket", "completed"): 3}
    assert [h.buckets[-1][1] for h in tally.stage.values()] == [1]
    assert not bench.store.live_ids()
    assert bench.redis.keys(keys.FOLLOWERS + "*") == []
    assert not sharing.overdue(-10)


def test_deleting_any_takes_no_other_ones_film(
    bench: Bench, sharing: Sharing, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    first, second = bench.submit(share=SHARE), bench.submit(share=SHARE)
    run(bench, first, artifacts, tmp_path)
    sharing.hand_out(first.id)
    bench.store.delete(first.id, "studio")
    artifacts.delete_prefix(f"studio/{first.id}/")
    assert content(artifacts, bench.store.get(second.id)) == b"film"
    assert sharing.find("studio", SHARE, WEIGHTS) is None


def test_tenants_and_different_films_never_meet(bench: Bench) -> None:
    jobs = [bench.submit(tenant=tenant, share=SHARE) for tenant in ("studio", "lab")]
    jobs += [bench.submit(share="ef" * 32), bench.submit(), bench.submit()]
    assert sorted(waiting(bench)) == sorted(job.id for job in jobs)
    assert not any(job.cached for job in jobs)


def test_a_made_film_is_found_by_its_tenant_and_weights_alone(
    bench: Bench, sharing: Sharing, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    job = bench.submit(share=SHARE)
    assert sharing.find("studio", SHARE, WEIGHTS) is None
    run(bench, job, artifacts, tmp_path)
    found = sharing.find("studio", SHARE, WEIGHTS)
    assert found is not None
    assert found.id == job.id
    assert sharing.find("lab", SHARE, WEIGHTS) is None
    assert sharing.find("studio", SHARE, "00" * 32) is None
    bench.redis.hset(keys.job(job.id), "expires_at", 1)
    assert sharing.find("studio", SHARE, WEIGHTS) is None


@pytest.mark.parametrize("running", [False, True])
def test_cancelling_the_first_ends_nobody_else(bench: Bench, running: bool) -> None:
    before = bench.submit()
    first = bench.submit(share=SHARE)
    after = bench.submit()
    others = [bench.submit(share=SHARE) for _ in range(2)]
    assert waiting(bench) == [before.id, first.id, after.id]
    if running:
        bench.claim(first.id, "exec")
        bench.store.cancel(first.id, "studio")
        assert bench.store.requeue(first.id, "exec", "stopped", counts=False)
        assert waiting(bench) == [others[0].id, before.id, after.id]
    else:
        bench.store.cancel(first.id, "studio")
        assert waiting(bench) == [before.id, others[0].id, after.id]
    heir, last = (bench.store.get(job.id) for job in others)
    assert [heir.cached, last.cached] == [False, True]
    assert bench.submit(share=SHARE).cached
    bench.store.cancel(last.id, "studio")
    assert bench.store.get(heir.id).status is Status.QUEUED


def test_a_failed_first_is_followed_by_the_next(bench: Bench) -> None:
    first, second = bench.submit(share=SHARE), bench.submit(share=SHARE)
    bench.claim(first.id, "exec")
    error = JobError(code=ErrorCode.OUT_OF_MEMORY, message="Too large.")
    assert bench.store.fail(first.id, "exec", error)
    assert waiting(bench) == [second.id]
    assert bench.claim(second.id, "second").job is not None


def test_an_expired_first_is_followed_by_the_next(bench: Bench) -> None:
    first, second = bench.submit(share=SHARE), bench.submit(share=SHARE)
    bench.redis.hset(keys.job(first.id), "queue_deadline", 1)
    assert bench.store.expire_overdue() == {first.id: "expired"}
    assert waiting(bench) == [second.id]


def test_a_film_gone_before_it_was_handed_out_is_made_again(
    bench: Bench, sharing: Sharing, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    first, *others = (bench.submit(share=SHARE) for _ in range(3))
    run(bench, first, artifacts, tmp_path)
    bench.store.delete(first.id, "studio")
    artifacts.delete_prefix(f"studio/{first.id}/")
    assert sharing.overdue(-10) == [first.id]
    assert sharing.hand_out(first.id) == 0
    assert waiting(bench) == [others[0].id]
    run(bench, others[0], artifacts, tmp_path)
    assert sharing.hand_out(others[0].id) == 1
    assert content(artifacts, bench.store.get(others[1].id)) == b"film"


def test_a_vanished_first_is_noticed_and_its_follower_runs(bench: Bench) -> None:
    first, second = bench.submit(share=SHARE), bench.submit(share=SHARE)
    queue = transport.queue_name("pocket")
    assert bench.store.rescue(second.id, queue) == "none"
    bench.redis.delete(keys.job(first.id))
    bench.redis.lrem(transport.queue_key(queue), 0, first.id)
    assert bench.store.rescue(second.id, queue) == "pushed"
    assert not bench.store.get(second.id).cached
    assert bench.claim(second.id, "exec").job is not None


def test_a_lost_list_of_followers_is_written_again(
    bench: Bench, sharing: Sharing, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    first, second = bench.submit(share=SHARE), bench.submit(share=SHARE)
    run(bench, first, artifacts, tmp_path)
    bench.redis.delete(keys.FOLLOWERS + first.id, keys.HANDOUT)
    assert bench.store.rescue(second.id, transport.queue_name("pocket")) == "none"
    assert sharing.overdue(-10) == [first.id]
    assert sharing.hand_out(first.id) == 1


def test_a_cancelled_follower_gets_no_film(
    bench: Bench, sharing: Sharing, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    first, second = bench.submit(share=SHARE), bench.submit(share=SHARE)
    run(bench, first, artifacts, tmp_path)
    bench.store.cancel(second.id, "studio")
    made = sharing.copy(bench.store.get(first.id), second.id)
    assert not sharing._adopt(second.id, "studio", made)
    assert not list(artifacts.list(f"studio/{second.id}/"))
    assert bench.store.get(second.id).status is Status.FAILED
    assert not sharing.overdue(-10)


def test_two_hands_at_once_end_a_follower_once(
    bench: Bench, sharing: Sharing, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    first, second = bench.submit(share=SHARE), bench.submit(share=SHARE)
    run(bench, first, artifacts, tmp_path)
    with ThreadPoolExecutor(4) as threads:
        ended = list(threads.map(sharing.hand_out, [first.id] * 4))
    assert sum(ended) == 1
    job = bench.store.get(second.id)
    assert job.result is not None
    films = [blob.key for blob in artifacts.list(f"studio/{second.id}/") if ".mp4" in blob.key]
    assert films == [job.result.video.key]
    events = [event.type for event in bench.store.events.read(second.id, None).events]
    assert events.count("completed") == 1


def test_equal_requests_at_once_are_one_run(bench: Bench) -> None:
    with ThreadPoolExecutor(8) as threads:
        jobs = list(threads.map(lambda _: bench.submit(share=SHARE), range(24)))
    assert len(waiting(bench)) == 1
    assert sum(job.cached for job in jobs) == 23
    assert len(bench.redis.smembers(keys.tenant_active("studio"))) == 24


def test_a_higher_tier_waits_for_no_lower_one(bench: Bench) -> None:
    slow = bench.submit(share=SHARE, tier=Tier.FLEX)
    quick = bench.submit(share=SHARE)
    assert waiting(bench) == [quick.id, slow.id]
    assert not quick.cached


def test_followers_count_as_active_but_take_no_place_in_the_queue(
    redis: Any, job_settings: JobSettings, make_submission: Any
) -> None:
    tight = job_settings.model_copy(update={"max_queue_depth": 1, "max_active_per_tenant": 2})
    store = JobStore(redis, tight)
    store.submit(make_submission(share=SHARE))
    with pytest.raises(QueueFull):
        store.submit(make_submission())
    assert store.submit(make_submission(share=SHARE)).job.cached
    with pytest.raises(TenantFull):
        store.submit(make_submission(share=SHARE))


def test_a_follower_calls_back_like_any_other_job(
    bench: Bench, sharing: Sharing, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    first = bench.submit(share=SHARE)
    second = bench.submit(share=SHARE, callback_url="https://receiver.example/hook")
    run(bench, first, artifacts, tmp_path)
    sharing.hand_out(first.id)
    letter = second.id.replace("video_", "evt_")
    assert bench.redis.hget(keys.letter(letter), "status") == b"completed"
