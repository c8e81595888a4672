"""Pages are complete, in order, and hold only what their tenant may see."""

import pytest

from worker.jobs import keys
from worker.jobs.contract import Status
from worker.jobs.outcomes import JobNotFound


def walk(store, limit, descending, **filters):
    """All ids of the studio, page by page."""
    found, after = [], None
    while True:
        page = store.list("studio", after=after, limit=limit, descending=descending, **filters)
        found += [job.id for job in page.jobs]
        if not page.has_more:
            return found
        after = page.jobs[-1].id


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_pages_join_to_the_whole_list(bench, limit, descending):
    ids = [bench.submit().id for _ in range(7)]
    bench.submit(tenant="other")
    assert walk(bench.store, limit, descending) == (ids[::-1] if descending else ids)


def test_filters_see_past_whole_chunks(bench, job_settings):
    first = bench.submit(task_type="image").id
    for _ in range(99):
        bench.submit(tenant="studio")
    bench.redis.delete(keys.tenant_active("studio"))
    for _ in range(15):
        bench.submit(model="other")
    last = bench.submit(task_type="image").id
    assert walk(bench.store, 1, True, task_type="image") == [last, first]
    assert len(walk(bench.store, 6, False, model="other")) == 15


def test_a_status_filter_holds(bench, result):
    waiting = bench.submit().id
    running, exec = bench.running()
    bench.store.complete(running.id, exec, result)
    assert walk(bench.store, 5, True, status=Status.QUEUED) == [waiting]
    assert walk(bench.store, 5, True, status=Status.COMPLETED) == [running.id]


@pytest.mark.parametrize("descending", [False, True])
def test_a_list_may_be_deleted_while_walking_it(bench, descending):
    ids = [bench.submit().id for _ in range(6)]
    seen, after = [], None
    while page := bench.store.list("studio", after=after, limit=2, descending=descending).jobs:
        for job in page:
            bench.store.delete(job.id, "studio")
            seen.append(job.id)
        after = seen[-1]
    assert sorted(seen) == sorted(ids)


def test_an_unknown_cursor_is_not_found(bench):
    bench.submit()
    foreign = bench.submit(tenant="other").id
    for after in ("video_" + "0" * 32, foreign):
        with pytest.raises(JobNotFound):
            bench.store.list("studio", after=after, limit=5, descending=True)


def test_the_index_forgets_expired_rows(bench):
    ids = [bench.submit().id for _ in range(4)]
    bench.redis.delete(*(keys.job(job_id) for job_id in ids[:3]))
    assert walk(bench.store, 5, False) == ids[3:]
    for _ in range(2):
        bench.submit()
    assert bench.redis.zcard(keys.tenant_jobs("studio")) == 3
