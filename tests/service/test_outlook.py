"""Forecasts: the time to the end is the work ahead, shared by the workers, and the own run."""

import time

import pytest

import service.outlook
from service.outlook import EFFORT, FRESH_S, Outlook, median_error
from tests.cards import plain_card, plain_catalog
from worker.jobs.contract import ErrorCode, JobError, Progress, Stage, Tier
from worker.jobs.costs import Sample, estimate, shape_of
from worker.jobs.outcomes import Serving, WorkerInfo
from worker.jobs.pause import Pause

RUN_S = 10.0


@pytest.fixture
def outlook(store):
    return Outlook(store, plain_catalog())


@pytest.fixture
def staff(store, make_request):
    """Puts workers on the roster that take 10 s for the usual request of 20 steps."""
    sample = Sample(shape=shape_of(make_request()), lead_s=1, step_s=0.4, tail_s=1, jobs=1)

    def put(name, state="idle", job_id=None, samples=(sample,), memory_mb=None):
        store.put_worker(
            WorkerInfo(
                name=name,
                model="pocket",
                state=state,
                pid=1,
                job_id=job_id,
                serving=(Serving(model="pocket", samples=samples, memory_mb=memory_mb),),
            ),
            ttl_s=60,
        )

    return put


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_work_ahead_is_shared_by_the_workers(outlook, staff, store, make_submission, workers):
    for index in range(workers):
        staff(f"w{index}")
    jobs = [store.submit(make_submission()).job for _ in range(7)]
    for place, job in enumerate(jobs):
        rounds = place // workers + 1
        assert outlook.eta_s(job) == pytest.approx(RUN_S * rounds, abs=1)


def test_a_job_that_came_after_the_picture_stands_behind_all_others(
    outlook, staff, store, make_submission
):
    staff("w")
    etas = [outlook.eta_s(store.submit(make_submission()).job) for _ in range(5)]
    assert etas == pytest.approx([RUN_S * place for place in range(1, 6)], abs=1)


def test_other_sizes_ahead_weigh_what_they_cost(outlook, staff, store, make_submission):
    staff("w")
    store.submit(make_submission(num_inference_steps=45))  # 20 s
    job = store.submit(make_submission(num_inference_steps=5)).job  # 4 s
    assert outlook.eta_s(job) == pytest.approx(24, abs=1)


def test_the_running_job_counts_as_far_as_it_is(outlook, staff, store, hand, make_submission):
    running = store.submit(make_submission()).job
    _, exec = hand.start(running.id)
    progress = Progress(stage=Stage.DENOISING, step=15, total=20, eta_s=300.0)
    store.report(running.id, exec, progress)
    staff("w", "busy", running.id)
    job = store.submit(make_submission()).job
    assert outlook.eta_s(job) == pytest.approx(300 + RUN_S, abs=5)
    time.sleep(0.5)
    assert outlook.eta_s(store.get(running.id)) < 299.6


def test_the_forecast_runs_down(outlook, staff, store, make_submission):
    staff("w")
    job = store.submit(make_submission()).job
    first = outlook.eta_s(job)
    time.sleep(0.3)
    assert first - 1 < outlook.eta_s(job) <= first - 0.25


@pytest.mark.parametrize("state", ["starting", "draining"])
def test_nobody_forecasts_without_a_worker_that_takes_jobs(
    outlook, staff, store, make_submission, state
):
    staff("w", state)
    job = store.submit(make_submission()).job
    assert outlook.eta_s(job) is None
    assert outlook.run_s(job.request) is None


def test_an_ended_job_has_no_time_left(outlook, staff, store, hand, make_submission):
    staff("w")
    job = store.submit(make_submission()).job
    store.cancel(job.id, job.tenant)
    assert outlook.eta_s(store.get(job.id)) is None


@pytest.fixture
def lasting(outlook, monkeypatch):
    """Pictures that would serve for a minute; waits until another one may be taken."""
    monkeypatch.setattr(service.outlook, "FRESH_S", 60)
    return lambda: time.sleep(outlook._pictures["pocket"].took_s / EFFORT)


LONG = 1000  # steps: 402 s


def test_waiting_jobs_that_were_cancelled_delay_nobody_who_comes_at_once_after_them(
    outlook, lasting, staff, store, make_submission
):
    staff("w")
    long = [store.submit(make_submission(num_inference_steps=LONG)).job for _ in range(2)]
    job = store.submit(make_submission()).job
    assert outlook.eta_s(job) == pytest.approx(2 * 402 + RUN_S, abs=5)
    for ahead in long:
        store.cancel(ahead.id, ahead.tenant)
    lasting()
    late = store.submit(make_submission()).job
    assert outlook.eta_s(late) == pytest.approx(2 * RUN_S, abs=5)


def test_a_running_job_that_was_cancelled_delays_by_a_step(
    outlook, lasting, staff, store, hand, make_submission
):
    running = store.submit(make_submission(num_inference_steps=LONG)).job
    _, exec = hand.start(running.id)
    store.report(running.id, exec, Progress(stage=Stage.DENOISING, step=3, total=LONG, eta_s=400.0))
    staff("w", "busy", running.id)
    jobs = [store.submit(make_submission()).job]
    assert outlook.eta_s(jobs[0]) == pytest.approx(400 + RUN_S, abs=5)
    store.cancel(running.id, running.tenant)
    lasting()
    assert outlook.eta_s(store.get(running.id)) == 0.4
    jobs.append(store.submit(make_submission()).job)
    assert outlook.eta_s(jobs[1]) == pytest.approx(2 * RUN_S, abs=5)
    store.fail(running.id, exec, JobError(code=ErrorCode.CANCELLED, message="cancelled"))
    lasting()
    jobs.append(store.submit(make_submission()).job)
    assert outlook.eta_s(jobs[2]) == pytest.approx(3 * RUN_S, abs=5)


def test_a_storm_of_cancels_costs_no_storm_of_pictures(
    outlook, lasting, staff, store, make_submission
):
    staff("w")
    job = store.submit(make_submission()).job
    outlook.eta_s(job)
    pictures = []
    for _ in range(5):
        store.cancel(job.id, job.tenant)
        job = store.submit(make_submission()).job
        outlook.eta_s(job)
        pictures.append(outlook._pictures["pocket"])
        pictures[-1].took_s = 60.0  # of a very long queue
    assert all(picture is pictures[0] for picture in pictures)


def test_a_job_between_the_queue_and_its_worker_is_not_overlooked(
    outlook, staff, store, hand, make_submission
):
    staff("w")
    first = store.submit(make_submission(num_inference_steps=LONG)).job
    assert outlook.eta_s(first) == pytest.approx(402, abs=5)
    hand.start(first.id)  # the worker has not spoken of it yet
    time.sleep(FRESH_S)
    job = store.submit(make_submission()).job
    assert outlook.eta_s(job) == pytest.approx(402 + RUN_S, abs=8)


def test_one_picture_serves_a_second_of_questions(staff, store, redis, make_submission):
    outlook = Outlook(store, plain_catalog())
    staff("w")
    jobs = [store.submit(make_submission()).job for _ in range(20)]
    outlook.eta_s(jobs[0])
    before = redis.info("stats")["total_commands_processed"]
    began = time.monotonic()
    for job in jobs * 10:
        outlook.eta_s(job)
    asked = redis.info("stats")["total_commands_processed"] - before
    assert asked < 100 * (1 + (time.monotonic() - began) / FRESH_S)


def test_a_picture_reads_a_few_rows_and_takes_those_between_for_their_likes(
    staff, store, make_submission, monkeypatch
):
    monkeypatch.setattr(service.outlook, "READ_AT_ONCE", 4)
    monkeypatch.setattr(service.outlook, "FRESH_S", 0.0)
    staff("w")
    for _ in range(20):
        store.submit(make_submission())
    last = store.submit(make_submission(num_inference_steps=45)).job  # 20 s
    read = []
    monkeypatch.setattr(
        store, "peek", lambda ids, peek=store.peek: read.append(len(ids)) or peek(ids)
    )
    outlook = Outlook(store, plain_catalog())
    first = outlook.eta_s(last)
    for _ in range(8):
        known = outlook.eta_s(last)
    assert max(read) <= 4
    assert sum(read) == 21
    assert first == pytest.approx(RUN_S * 21, abs=1)
    assert known == pytest.approx(RUN_S * 20 + 20, abs=1)


@pytest.fixture
def shared(store, make_request):
    """Puts workers on the roster that serve two models, in 10 s and in 20 s, and hold the first."""
    fast = Sample(shape=shape_of(make_request()), lead_s=1, step_s=0.4, tail_s=1, jobs=1)
    slow = fast.model_copy(update={"step_s": 0.9})

    def put(name="w", **fields):
        serving = (
            Serving(model="pocket", loaded=True, samples=(fast,), weights_sha256="ab"),
            Serving(model="other", samples=(slow,), load_s=30.0),
        )
        info = WorkerInfo(name=name, model="pocket", state="idle", pid=1, serving=serving)
        store.put_worker(info.model_copy(update=fields), ttl_s=60)

    return put


def test_jobs_of_other_models_of_the_same_workers_are_work_ahead(
    outlook, shared, store, make_submission
):
    shared()
    others = [store.submit(make_submission(model="other")).job for _ in range(2)]
    own = [store.submit(make_submission()).job for _ in range(2)]
    # In turn: other's first with its loading, then ours, and so on.
    assert outlook.eta_s(own[1]) == pytest.approx(30 + 2 * 20 + 2 * RUN_S, abs=1)
    assert outlook.eta_s(others[1]) == pytest.approx(30 + 2 * 20 + RUN_S, abs=1)
    urgent = store.submit(make_submission(tier=Tier.PRIORITY)).job
    again = Outlook(store, plain_catalog())
    assert again.eta_s(urgent) == pytest.approx(RUN_S, abs=1)
    Pause(store.redis).pause("other")
    again = Outlook(store, plain_catalog())
    assert again.eta_s(own[1]) == pytest.approx(3 * RUN_S, abs=1)
    assert outlook.weights("pocket") == "ab"
    assert outlook.weights("other") is None  # never loaded: nobody knows


def test_only_workers_that_take_a_models_jobs_count_for_it(
    outlook, shared, staff, store, make_submission
):
    shared()
    staff("alone")
    other, own = (store.submit(make_submission(model=name)).job for name in ("other", "pocket"))
    assert outlook.eta_s(other) == pytest.approx(50, abs=1)
    assert outlook.eta_s(own) == pytest.approx(RUN_S, abs=1)  # on the worker that is alone
    broken = Serving(model="other", broken=True)
    shared(serving=(broken,))
    again = Outlook(store, plain_catalog())
    assert again.eta_s(other) is None
    assert again.run_s(other.request) is None


def test_an_outage_costs_the_forecast_and_no_answer(outlook, staff, store, make_submission, valkey):
    staff("w")
    job = store.submit(make_submission()).job
    store.redis.connection_pool.connection_kwargs["retry"] = None
    valkey.stop()
    try:
        assert outlook.eta_s(job) is None
    finally:
        valkey.start()


def test_the_wire_tells_forecast_and_a_constant_pace(api, client, staff, hand, make_request):
    staff("w")
    body = {"prompt": "a fox", "num_inference_steps": 20, "guidance_scale": 4.0}
    time.sleep(FRESH_S)  # the shared API may hold an older picture
    answer = client.post("/v1/videos", json=body)
    video = answer.json()
    assert video["eta_seconds"] == pytest.approx(RUN_S, abs=1)
    pace = answer.headers["openai-poll-after-ms"]
    assert pace == "1000"  # a tenth of the run
    assert answer.headers["retry-after"] == "1"
    hand.start(video["id"])
    again = client.get(f"/v1/videos/{video['id']}")
    assert again.headers["openai-poll-after-ms"] == pace
    listed = client.get("/v1/videos").json()["data"][0]
    assert 0 < listed["eta_seconds"] <= RUN_S
    assert estimate(make_request(), plain_card().cost, ()).total_s > 0


@pytest.mark.parametrize(
    ("pairs", "error"),
    [([(8, 10)], 0.2), ([(8, 10), (10, 10)], 0.1), ([(9, 10), (50, 10), (10, 10)], 0.1)],
)
def test_the_error_of_forecasts_is_the_median_relative_one(pairs, error):
    assert median_error(pairs) == pytest.approx(error)
