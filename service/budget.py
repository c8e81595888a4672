"""What no worker can make is refused before the queue: too much memory, or too long a run.

Only what workers measured counts. While none has measured anything, nothing is refused.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from service import fields
from service.deps import Services
from service.errors import InvalidValue, show
from service.intake import Order
from service.outlook import Prospect
from service.wishes import Wishes
from worker.jobs.catalog import ModelCard
from worker.jobs.contract import VideoRequest
from worker.jobs.outcomes import Submission

Fits = Callable[[VideoRequest], bool]


def appraise(submission: Submission, order: Order, services: Services) -> Submission:
    """The submission with its expected run time and the warnings of its order.

    raises InvalidValue, naming the field and the largest value that can be made
    """
    check_budget(submission, order.card, order.wishes, services)
    return replace(
        submission,
        cost_s=services.outlook.run_s(submission.request),
        warnings=order.wishes.warnings,
        gpu_class=choose_class(submission, services),
    )


def check_class(gpu_class: str, known: Sequence[str]) -> None:
    """raises InvalidValue if this server has no workers of a class"""
    if gpu_class and gpu_class not in known:
        has = f"this server has {', '.join(known)}" if known else "this server has no classes"
        raise InvalidValue(f"gpu_class: {show(gpu_class)} does not exist; {has}", "gpu_class")


def choose_class(submission: Submission, services: Services) -> str:
    """The class of workers that shall make a job: the one that was asked for; "", any, if every
    worker can make it or nobody knows; else the one with the least memory whose workers all can."""
    if submission.gpu_class or not services.settings.gpu_classes:
        return submission.gpu_class
    timeout_s = services.settings.job_timeout_s
    found = services.outlook.prospects(submission.request)
    unable = {each.gpu_class for each in found if obstacle(each, timeout_s)}
    able = [each for each in found if each.gpu_class and each.gpu_class not in unable]
    if not unable or not able:
        return ""
    return min(able, key=lambda each: (each.memory_mb or math.inf, each.gpu_class)).gpu_class


def check_budget(
    submission: Submission, card: ModelCard, wishes: Wishes, services: Services
) -> None:
    """raises InvalidValue if no worker has the memory, or the time that a job may take"""
    request, asked_class = submission.request, submission.gpu_class
    timeout_s = services.settings.job_timeout_s

    def trouble(wanted: VideoRequest) -> str | None:
        found = [
            obstacle(each, timeout_s)
            for each in services.outlook.prospects(wanted)
            if asked_class in ("", each.gpu_class)
        ]
        return None if not found or None in found else found[0]

    reason = trouble(request)
    if reason is None:
        return

    def fits(wanted: VideoRequest) -> bool:
        return trouble(wanted) is None

    asked = f"{request.width}x{request.height}, {request.num_frames} frames and "
    asked += f"{request.num_inference_steps} steps need {reason}"
    for param, largest in ways_out(request, card, wishes, fits):
        raise InvalidValue(f"{param}: {asked}; the largest that fits is {largest}", param)
    raise InvalidValue(f"size: {asked}; no clip of {card.id} fits", "size")


def obstacle(prospect: Prospect, timeout_s: float) -> str | None:
    """What keeps a worker from making a request, if anything."""
    found = shortage(prospect.estimate.peak_mb, prospect.memory_mb)
    return found or overtime(prospect.estimate.total_s, timeout_s)


def shortage(peak_mb: float | None, memory_mb: float | None) -> str | None:
    if peak_mb is None or memory_mb is None or peak_mb <= memory_mb:
        return None
    return f"about {peak_mb:.0f} MiB of memory where {memory_mb:.0f} are free"


def overtime(total_s: float, timeout_s: float) -> str | None:
    if total_s <= timeout_s:
        return None
    return f"about {total_s:.0f} s where a job may run {timeout_s:g}"


def ways_out(
    request: VideoRequest, card: ModelCard, wishes: Wishes, fits: Fits
) -> Iterator[tuple[str, str]]:
    """The fields of which a smaller value alone would do, with the largest such value."""
    rule = card.frames
    lengths = range(rule.minimum, min(rule.maximum, request.num_frames - 1) + 1, rule.step)
    found = first_fit(({"num_frames": count} for count in reversed(lengths)), request, fits)
    if found is not None:
        if wishes.has(fields.SECONDS) and not wishes.has(fields.NUM_FRAMES):
            yield "seconds", f"{found.num_frames / found.fps:.6g}"
        else:
            yield "num_frames", str(found.num_frames)
    counts = range(request.num_inference_steps - 1, int(card.steps.minimum) - 1, -1)
    found = first_fit(({"num_inference_steps": count} for count in counts), request, fits)
    if found is not None:
        yield "num_inference_steps", str(found.num_inference_steps)
    sizes = sorted((sides(size) for size in card.sizes), key=area, reverse=True)
    smaller = [size for size in sizes if area(size) < request.width * request.height]
    found = first_fit(({"width": w, "height": h} for w, h in smaller), request, fits)
    if found is not None:
        yield "size", f"{found.width}x{found.height}"


def first_fit(
    changes: Iterable[dict[str, int]], request: VideoRequest, fits: Fits
) -> VideoRequest | None:
    """The first changed request that fits."""
    for change in changes:
        wanted = request.model_copy(update=change)
        if fits(wanted):
            return wanted
    return None


def sides(size: str) -> tuple[int, int]:
    width, height = size.split("x")
    return int(width), int(height)


def area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
