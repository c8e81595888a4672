"""What no worker can make is refused before the queue: too much memory, or too long a run.

Only what workers measured counts. While none has measured anything, nothing is refused.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from service import fields
from service.deps import Services
from service.errors import InvalidValue
from service.intake import Order
from service.wishes import Wishes
from worker.jobs.catalog import ModelCard
from worker.jobs.contract import VideoRequest
from worker.jobs.outcomes import Submission

Fits = Callable[[VideoRequest], bool]


def appraise(submission: Submission, order: Order, services: Services) -> Submission:
    """The submission with its expected run time and the warnings of its order.

    raises InvalidValue, naming the field and the largest value that can be made
    """
    check_budget(submission.request, order.card, order.wishes, services)
    cost_s = services.outlook.run_s(submission.request)
    return replace(submission, cost_s=cost_s, warnings=order.wishes.warnings)


def check_budget(
    request: VideoRequest, card: ModelCard, wishes: Wishes, services: Services
) -> None:
    """raises InvalidValue if no worker has the memory, or the time that a job may take"""
    timeout_s = services.settings.job_timeout_s

    def trouble(wanted: VideoRequest) -> str | None:
        found = [
            shortage(estimate.peak_mb, memory_mb) or overtime(estimate.total_s, timeout_s)
            for estimate, memory_mb in services.outlook.prospects(wanted)
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
