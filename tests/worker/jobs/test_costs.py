"""The estimator's laws: what was seen is believed, what was not is scaled by the declared curve."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.jobs.catalog import CostCurve
from worker.jobs.contract import VideoRequest
from worker.jobs.costs import (
    MAX_SAMPLES,
    Sample,
    adopt,
    decisive,
    estimate,
    fitting,
    learn,
    shape_of,
)

CURVE = CostCurve(
    lead_s=0.5, pass_s=0.1, pass_s_per_volume=2, tail_s=0.3, tail_s_per_volume=1.5,
    memory_mb=500, memory_mb_per_volume=1000,
)  # fmt: skip


def request(frames: int = 16, steps: int = 20, guidance: float = 4.0, side: int = 64):
    return VideoRequest(
        model="pocket",
        task_type="text",
        prompt="a fox",
        width=side,
        height=side,
        num_frames=frames,
        fps=8,
        seed=1,
        num_inference_steps=steps,
        guidance_scale=guidance,
        sampler="ddim",
    )


def measured(wanted: VideoRequest, speed: float = 1.0, jobs: int = 1, peak_mb: float = 0.0):
    """What a machine that follows the curve at some speed takes."""
    shape = shape_of(wanted)
    return Sample(
        shape=shape,
        lead_s=CURVE.lead_s * speed,
        step_s=CURVE.step_s(shape.volume, shape.passes) * speed,
        tail_s=CURVE.after_s(shape.volume) * speed,
        peak_mb=peak_mb,
        jobs=jobs,
    )


def test_without_a_measurement_the_declared_curve_stands():
    wanted = request()
    found = estimate(wanted, CURVE, ())
    volume = 64 * 64 * 16 / 1e6
    assert found.total_s == pytest.approx(0.5 + 20 * 2 * (0.1 + 2 * volume) + 0.3 + 1.5 * volume)
    assert found.peak_mb == pytest.approx(500 + 1000 * volume)


def test_a_step_of_a_film_made_by_stages_costs_no_more_than_the_network_sees():
    curve = replace(CURVE, pass_volume=64 * 64 * 16 / 1e6)
    small, large = (estimate(request(side=side), curve, ()) for side in (64, 256))
    assert large.step_s == small.step_s
    assert large.tail_s > small.tail_s
    assert estimate(request(frames=8), curve, ()).step_s < small.step_s


@given(
    seen=st.tuples(st.integers(8, 81), st.sampled_from((64, 256, 832))),
    asked=st.tuples(st.integers(8, 81), st.sampled_from((64, 256, 832))),
    speed=st.floats(0.01, 100),
    guided=st.tuples(st.booleans(), st.booleans()),
)
def test_one_measured_clip_scales_the_curve_to_every_shape(seen, asked, speed, guided):
    near, far = (
        request(frames, side=side, guidance=4.0 if two else 1.0)
        for (frames, side), two in zip((seen, asked), guided, strict=True)
    )
    found = estimate(far, CURVE, (measured(near, speed),))
    assert found.total_s == pytest.approx(estimate(far, CURVE, ()).total_s * speed)


def test_a_shape_seen_costs_what_it_cost_whatever_the_steps():
    odd = Sample(shape=shape_of(request()), lead_s=1, step_s=7, tail_s=2, peak_mb=900, jobs=1)
    other = measured(request(frames=17))
    for samples in ((odd, other), (other, odd)):
        found = estimate(request(steps=3), CURVE, samples)
        assert (found.total_s, found.peak_mb) == (1 + 3 * 7 + 2, 900)


def test_a_real_job_is_believed_before_a_rehearsal():
    rehearsal = measured(request(), speed=1, jobs=0)
    real = measured(request(frames=20), speed=3)
    found = estimate(request(frames=17), CURVE, (rehearsal, real))
    assert found.step_s == pytest.approx(measured(request(frames=17), speed=3).step_s)


def test_guidance_doubles_the_steps():
    alone, guided = (estimate(request(guidance=scale), CURVE, ()) for scale in (1.0, 1.5))
    assert guided.step_s == pytest.approx(2 * alone.step_s)


@given(st.lists(st.floats(0.1, 10), min_size=25, max_size=40))
def test_learning_follows_the_machine_and_forgets_outliers(speeds):
    samples = ()
    for speed in [100.0, *speeds, *[2.0] * 25]:
        samples = learn(samples, measured(request(), speed))
    assert len(samples) == 1
    assert samples[0].jobs == len(speeds) + 26
    assert samples[0].step_s == pytest.approx(measured(request(), 2.0).step_s, rel=0.05)


def test_the_first_real_job_replaces_the_rehearsal():
    [found] = learn((measured(request(), 9, jobs=0),), measured(request(), 2))
    assert found == measured(request(), 2)


def test_memory_of_shapes_is_bounded_and_keeps_the_latest():
    samples = ()
    for frames in range(8, 8 + 2 * MAX_SAMPLES):
        samples = learn(samples, measured(request(frames=frames)))
    assert len(samples) == MAX_SAMPLES
    assert samples[-1].shape.num_frames == 8 + 2 * MAX_SAMPLES - 1


def test_memory_beyond_what_was_seen_rises_by_the_declared_slope():
    small = measured(request(frames=10), peak_mb=700)
    # Memory that an earlier, larger clip left behind must not be counted again.
    blurred = measured(request(frames=12), peak_mb=2000)
    found = estimate(request(frames=40), CURVE, (small, blurred))
    assert found.peak_mb == pytest.approx(700 + 1000 * 30 * 64 * 64 / 1e6)


def test_every_clip_of_a_story_has_all_its_steps():
    """However little of a film the network sees at once."""
    seen = replace(CURVE, pass_volume=0.05)

    def story(frames, side=64):
        return request(frames, side=side).model_copy(update={"task_type": "story"})

    short = measured(story(48))
    assert estimate(story(480), seen, (short,)).step_s == pytest.approx(10 * short.step_s)
    assert estimate(story(480, side=128), seen, (short,)).step_s == pytest.approx(short.step_s)
    assert estimate(request(480), seen, (short,)).step_s == pytest.approx(short.step_s)


def test_what_is_made_piece_by_piece_takes_no_more_memory_than_its_largest_piece():
    pieces = replace(CURVE, memory_volume=0.1)
    assert estimate(request(frames=8), pieces, ()).peak_mb == pytest.approx(
        500 + 1000 * 8 * 64 * 64 / 1e6
    )
    small = measured(request(frames=10), peak_mb=700)
    for frames in (1000, 4096):
        assert estimate(request(frames=frames), pieces, ()).peak_mb == pytest.approx(600)
        found = estimate(request(frames=frames), pieces, (small,))
        assert found.peak_mb == pytest.approx(700 + 1000 * (0.1 - 10 * 64 * 64 / 1e6))


def test_without_slope_or_measurement_nobody_knows_the_memory():
    assert estimate(request(), CostCurve(), ()).peak_mb is None


def test_what_others_learned_is_adopted_at_ones_own_speed():
    stored = (measured(request(), 2), measured(request(frames=30), 2), measured(request(81), 2))
    own = measured(request(), 6, jobs=0)
    adopted = adopt(stored, own)
    assert adopted[-1] == own
    for frames in (16, 30, 81):
        found = estimate(request(frames=frames), CURVE, adopted)
        assert found.step_s == pytest.approx(measured(request(frames=frames), 6).step_s)
    assert all(sample.jobs == 0 for sample in adopted)


def test_without_a_shape_in_common_nothing_is_adopted():
    own = measured(request(), 6, jobs=0)
    assert adopt((measured(request(frames=30), 2),), own) == (own,)


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, "1"])
def test_a_curve_is_finite_and_never_negative(wrong):
    with pytest.raises(ValueError, match="cost curve"):
        CostCurve(pass_s=wrong)


def test_a_worker_yet_to_come_finds_what_was_learned(store):
    assert store.learned("pocket") == ()
    store.learn("pocket", measured(request()))
    store.learn("pocket", measured(request(frames=20)))
    assert store.learned("pocket") == (measured(request()), measured(request(frames=20)))
    assert store.learned("other") == ()


@pytest.mark.parametrize(
    ("memory_mb", "timeout_s", "most"),
    [
        (500 + 5 * 65.6, 3600, 5),  # a clip of this shape adds 65.536 MiB
        (500 + 4.9 * 65.536, 3600, 4),
        (500, 3600, 1),
        (100, 3600, 1),  # not even one, so they say: tried all the same
        (1e6, 25, 2),  # one takes 10.1 s
        (1e6, 5, 1),
        (None, 3600, 1),
    ],
)
def test_so_many_clips_fit_as_have_memory_and_end_in_time(memory_mb, timeout_s, most):
    assert fitting(request(), CURVE, (), memory_mb, timeout_s) == most


def test_a_model_that_declares_no_curve_makes_one_clip_at_a_time():
    assert fitting(request(), CostCurve(), (), 1e6, 3600) == 1


def test_a_measured_peak_counts_for_how_many_clips_fit():
    seen = (measured(request(), peak_mb=900.0),)
    assert fitting(request(), CURVE, seen, 900 + 2.5 * 65.536, 3600) == 3


@pytest.mark.parametrize(
    ("change", "decides"),
    [
        ({"task_type": "image"}, True),
        ({"width": 128}, True),
        ({"height": 128}, True),
        ({"num_frames": 8}, True),
        ({"num_inference_steps": 3}, True),
        ({"guidance_scale": 1.0}, True),
        ({"guidance_scale": 9.0}, False),
        ({"seed": 9}, False),
        ({"prompt": "another"}, False),
    ],
)
def test_requests_that_are_decided_alike_are_estimated_alike(change, decides):
    asked = request()
    other = asked.model_copy(update=change)
    known = (measured(request(frames=20)),)
    assert (decisive(asked) != decisive(other)) is decides
    if not decides:
        assert estimate(asked, CURVE, known) == estimate(other, CURVE, known)
