"""Turns and tiers through one real supervisor and its child."""

from tests.worker.conftest import Running, Studio
from worker.jobs.contract import Status, Tier


def started(studio: Studio, *ids: str) -> list[str]:
    """These jobs in the order in which their worker began them, once all have ended."""
    jobs = [studio.ended(job_id) for job_id in ids]
    assert [job.status for job in jobs] == [Status.COMPLETED] * len(jobs)
    assert [job.attempt for job in jobs] == [1] * len(jobs)
    return [job.id for job in sorted(jobs, key=lambda job: job.started_at or 0)]


def test_a_single_job_waits_for_one_running_job_of_the_crowd(running: Running) -> None:
    studio, _ = running
    crowd = [studio.submit("pace=0.05", tenant="crowd", num_inference_steps=60)]
    crowd += [studio.submit(tenant="crowd") for _ in range(5)]
    studio.denoising(crowd[0])
    single = studio.submit(tenant="single")
    assert studio.job(single).queue_position == 1
    assert started(studio, *crowd, single) == [crowd[0], single, *crowd[1:]]


def test_tiers_are_served_in_order(running: Running) -> None:
    studio, _ = running
    first = studio.submit("pace=0.05", num_inference_steps=60, tier=Tier.FLEX)
    studio.denoising(first)
    flex, default, priority = (
        studio.submit(tier=tier) for tier in (Tier.FLEX, Tier.DEFAULT, Tier.PRIORITY)
    )
    assert [studio.job(job_id).queue_position for job_id in (priority, default, flex)] == [1, 2, 3]
    assert started(studio, first, flex, default, priority) == [first, priority, default, flex]


def test_a_job_of_any_tier_is_cancelled_while_it_runs(running: Running) -> None:
    studio, worker = running
    loads = studio.info(worker).loads
    for tier in (Tier.PRIORITY, Tier.FLEX):
        job_id = studio.submit("pace=0.05", num_inference_steps=100, tier=tier)
        studio.denoising(job_id)
        studio.store.cancel(job_id, "studio")
        error = studio.ended(job_id).error
        assert error is not None
        assert error.code == "cancelled"
    assert studio.info(worker).loads == loads
