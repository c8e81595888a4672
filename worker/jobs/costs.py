"""What a clip costs on a machine: learned by shape, and reckoned for shapes not seen yet.

A shape seen before costs what it cost. Any other costs what the nearest seen one did, scaled by
the model's declared curve. Pure arithmetic: knows neither clock nor queue server.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from worker.jobs.catalog import CostCurve
from worker.jobs.contract import Record, VideoRequest

MAX_SAMPLES = 32  # shapes that a worker remembers, the latest
MEMORY = 0.3  # weight of the newest clip against all before it

Samples = tuple["Sample", ...]


class Shape(Record):
    """All of a request that decides how long one denoising step takes."""

    task_type: str
    width: int
    height: int
    num_frames: int
    passes: int  # of the network a step: 2 with guidance, 1 without

    @property
    def volume(self) -> float:
        """Megapixels of film."""
        return self.width * self.height * self.num_frames / 1e6


class Sample(Record):
    """What clips of one shape took. Times are wall seconds."""

    shape: Shape
    lead_s: float  # from the start to the first denoising step
    step_s: float  # one denoising step
    tail_s: float  # from the last denoising step to the end
    peak_mb: float = 0.0  # 0: not known
    jobs: int = 0  # behind these figures; 0: a rehearsal, or scaled from another machine's


@dataclass(frozen=True)
class Estimate:
    """What one request will take."""

    lead_s: float
    step_s: float
    tail_s: float
    steps: int
    peak_mb: float | None  # None: nothing was measured or declared

    @property
    def total_s(self) -> float:
        """Wall seconds of a whole attempt."""
        return self.lead_s + self.steps * self.step_s + self.tail_s


def shape_of(request: VideoRequest) -> Shape:
    """The shape of what is asked for."""
    return Shape(
        task_type=request.task_type,
        width=request.width,
        height=request.height,
        num_frames=request.num_frames,
        passes=1 if request.guidance_scale == 1 else 2,
    )


def decisive(request: VideoRequest) -> tuple[str | int | bool, ...]:
    """What of a request its estimate depends on: equal for two, so are their estimates."""
    unguided = request.guidance_scale == 1
    size = (request.width, request.height, request.num_frames)
    return (request.task_type, *size, unguided, request.num_inference_steps)


def estimate(request: VideoRequest, curve: CostCurve, samples: Iterable[Sample]) -> Estimate:
    """What a request takes on the machine that the samples come from; without any, as declared."""
    shape, known = shape_of(request), tuple(samples)
    steps = request.num_inference_steps
    peak_mb = reckon_memory(shape, curve, known)
    if not known:
        step_s = curve.step_s(shape.volume, shape.passes)
        return Estimate(curve.lead_s, step_s, curve.after_s(shape.volume), steps, peak_mb)
    near = min(known, key=lambda sample: distance(shape, sample))
    return Estimate(
        near.lead_s,
        near.step_s * step_ratio(shape, near.shape, curve),
        near.tail_s * ratio(curve.after_s(shape.volume), curve.after_s(near.shape.volume)),
        steps,
        peak_mb,
    )


def reckon_memory(shape: Shape, curve: CostCurve, samples: Samples) -> float | None:
    """Peak MiB. Measured peaks may be too high, since memory freed is not always given back, but
    never too low: so the lowest of what each implies stands."""
    slope = curve.memory_mb_per_volume
    measured = [sample for sample in samples if sample.peak_mb]
    for sample in measured:
        if sample.shape == shape and sample.jobs:
            return sample.peak_mb
    if measured and slope:
        held = curve.held(shape.volume)
        rises = (s.peak_mb + slope * (held - curve.held(s.shape.volume)) for s in measured)
        return max(0.0, min(rises))
    return curve.peak_mb(shape.volume) if slope else None


def fitting(
    request: VideoRequest,
    curve: CostCurve,
    samples: Samples,
    memory_mb: float | None,
    timeout_s: float,
) -> int:
    """How many clips like this one may be made at once, at least one: so many have memory, and
    end in time even if each takes as long as all before it together.

    memory_mb  that a peak may reach; None, or a model that declares no curve: nobody knows
    """
    shape = shape_of(request)
    peak_mb = reckon_memory(shape, curve, samples)
    each_mb = curve.memory_mb_per_volume * curve.held(shape.volume)
    if memory_mb is None or peak_mb is None or each_mb <= 0:
        return 1
    total_s = estimate(request, curve, samples).total_s
    by_memory = 1 + (memory_mb - peak_mb) // each_mb
    by_time = timeout_s // total_s if total_s > 0 else by_memory
    return max(1, int(min(by_memory, by_time)))


def step_ratio(shape: Shape, known: Shape, curve: CostCurve) -> float:
    """What a step of one shape costs by one of another. A story is made clip by clip, and each clip
    has all steps; of other films the network sees no more than the curve says."""
    told = (shape.task_type, shape.width, shape.height)
    if told == ("story", known.width, known.height) and known.task_type == "story":
        return ratio(shape.volume, known.volume)
    return ratio(step_curve(shape, curve), step_curve(known, curve))


def step_curve(shape: Shape, curve: CostCurve) -> float:
    return curve.step_s(shape.volume, shape.passes)


def ratio(wanted: float, known: float) -> float:
    return wanted / known if known > 0 else 1.0


def distance(shape: Shape, sample: Sample) -> float:
    """How badly a sample stands for a shape: 0 is the same shape, seen in real jobs."""
    volumes = abs(math.log(shape.volume / sample.shape.volume))
    foreign = sample.shape.task_type != shape.task_type
    pixels = (sample.shape.width, sample.shape.height) != (shape.width, shape.height)
    passes = abs(sample.shape.passes - shape.passes)
    return volumes + foreign + 0.3 * pixels + 0.5 * passes + (sample.jobs == 0)


def learn(samples: Samples, new: Sample) -> Samples:
    """The samples with one more finished clip in them, its shape the latest."""
    known = next((sample for sample in samples if sample.shape == new.shape), None)
    others = tuple(sample for sample in samples if sample.shape != new.shape)
    if known is not None and known.jobs:
        new = Sample(
            shape=new.shape,
            lead_s=blend(known.lead_s, new.lead_s),
            step_s=blend(known.step_s, new.step_s),
            tail_s=blend(known.tail_s, new.tail_s),
            peak_mb=max(known.peak_mb, new.peak_mb),
            jobs=known.jobs + new.jobs,
        )
    return (*others, new)[-MAX_SAMPLES:]


def blend(known: float, new: float) -> float:
    return (1 - MEMORY) * known + MEMORY * new


def adopt(stored: Samples, own: Sample) -> Samples:
    """What other machines learned, scaled by how this one did on a shape that they know too.

    own  a rehearsal here. A shape that nobody knows teaches nothing about the others' speed
    """
    twin = next((sample for sample in stored if sample.shape == own.shape), None)
    if twin is None:
        return (own,)
    pace = ratio(own.step_s, twin.step_s)
    scaled = tuple(
        sample.model_copy(
            update={
                "lead_s": sample.lead_s * pace,
                "step_s": sample.step_s * pace,
                "tail_s": sample.tail_s * pace,
                "peak_mb": 0.0,
                "jobs": 0,
            }
        )
        for sample in stored
        if sample.shape != own.shape
    )
    return (*scaled, own)
