"""A worker is listed for as long as its announcement holds."""

import time

from worker.jobs.outcomes import Serving, WorkerInfo


def test_workers_are_listed_by_name_with_their_last_word(store):
    for name, state in (("b", "idle"), ("a", "starting"), ("b", "busy")):
        info = WorkerInfo(name=name, model="pocket", state=state, pid=7, serving=())
        store.put_worker(info, ttl_s=30)
    assert [(worker.name, worker.state) for worker in store.workers()] == [
        ("a", "starting"),
        ("b", "busy"),
    ]


def test_a_worker_that_falls_silent_is_forgotten(store):
    full = WorkerInfo(
        name="a",
        model="pocket",
        state="busy",
        pid=7,
        job_id="video_1",
        loads=2,
        serving=(
            Serving(
                model="pocket",
                loaded=True,
                weights_sha256="0" * 64,
                seconds_per_step=0.5,
                load_s=1.5,
            ),
        ),
    )
    store.put_worker(full, ttl_s=0.2)
    assert store.workers() == (full,)
    time.sleep(0.3)
    assert store.workers() == ()
