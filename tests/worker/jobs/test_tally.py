"""Every end of a job is counted once, where it happens, with its times."""

import math

import pytest

from worker.jobs.contract import ErrorCode, JobError
from worker.jobs.scripts import source
from worker.jobs.tally import BOUNDS

KIND = ("text", "pocket")


def test_every_end_is_counted_once_by_its_outcome(bench, result):
    done, exec = bench.running()
    for _ in range(3):  # a repeated command after a lost reply
        bench.store.complete(done.id, exec, result)
    failed, exec = bench.running()
    bench.store.fail(failed.id, exec, JobError(code=ErrorCode.TIMEOUT, message="x"))
    waiting = bench.submit()
    bench.store.cancel(waiting.id, "studio")
    bench.store.cancel(waiting.id, "studio")
    bench.submit()
    tally = bench.store.tally()
    assert tally.finished == {
        (*KIND, "completed"): 1,
        (*KIND, "timeout"): 1,
        (*KIND, "cancelled"): 1,
    }
    assert tally.run[KIND].buckets[-1] == (math.inf, 2)  # what never ran has no run
    assert tally.queue_wait[KIND].buckets[-1] == (math.inf, 2)


def test_stages_fall_into_the_first_bucket_that_holds_them(bench, result):
    stages = {"denoising": 2.5, "decoding": 2.6, "uploading": 99999.0}
    job, exec = bench.running()
    bench.store.complete(job.id, exec, result.model_copy(update={"stage_seconds": stages}))
    found = bench.store.tally().stage
    at_most = {labels[1]: dict(found[labels].buckets) for labels in found}
    assert (at_most["denoising"][1.0], at_most["denoising"][2.5]) == (0, 1)
    assert (at_most["decoding"][2.5], at_most["decoding"][5.0]) == (0, 1)
    assert (at_most["uploading"][3600.0], at_most["uploading"][math.inf]) == (0, 1)
    assert found[("pocket", "decoding")].sum_s == pytest.approx(2.6)


def test_scripts_and_reader_agree_on_the_bounds():
    listed = source("publish").split("BOUNDS = {")[1].split("}")[0]
    assert tuple(map(float, listed.split(","))) == BOUNDS


def test_nothing_counted_names_a_job(bench, result):
    job, exec = bench.running()
    bench.store.complete(job.id, exec, result)
    assert job.id not in str(bench.store.tally())
