"""A short film for nobody, made before the first job: how fast and how hungry the model is here.

It passes through everything that a job's film does, so it also finds out early what is broken. It
is thrown away, and one that fails only leaves the worker without figures.
"""

import time
from contextlib import suppress
from dataclasses import replace

import structlog

from models.catalog import ModelCard
from worker.film import Equipment, make_film
from worker.forecast import Timeline
from worker.jobs.contract import Stage, VideoRequest
from worker.jobs.costs import Sample
from worker.jobs.disk import DiskStore
from worker.messages import FromChild, Run
from worker.shelf import Shelf

log = structlog.get_logger()

NAME = "rehearsal"
STEPS = 3  # of the film that is measured
PATIENCE_S = 20.0  # a first film that took longer is not followed by a second


def rehearse(tools: Equipment) -> Sample | None:
    """What a clip of the card's default size takes, or None: no figures.

    The first, shortest film wakes libraries and caches up; the second is measured.
    """
    card = tools.model.card
    if "text" not in card.tasks:
        return None  # other kinds want pictures that nobody gave
    began = time.monotonic()
    first = perform(order(card, card.frames_at(card.fps[0]).minimum, 1), tools)
    if first is None or time.monotonic() - began > PATIENCE_S:
        return first
    return perform(order(card, card.default_frames, STEPS), tools) or first


def order(card: ModelCard, num_frames: int, steps: int) -> VideoRequest:
    """The card's default request, with few steps."""
    width, height = map(int, card.sizes[0].split("x"))
    return VideoRequest(
        model=card.id,
        task_type="text",
        prompt="a rehearsal",
        width=width,
        height=height,
        num_frames=num_frames,
        fps=card.fps[0],
        seed=0,
        num_inference_steps=int(min(max(steps, card.steps.minimum), card.steps.maximum)),
        guidance_scale=card.guidance.default,
        sampler=card.samplers[0],
    )


def perform(request: VideoRequest, tools: Equipment) -> Sample | None:
    """Make one film and forget it."""
    run = Run(exec=NAME, job_id=NAME, attempt=0, request=request, artifact_prefix=f"{NAME}/")
    stage = Stage.LOADING
    timeline = Timeline(request)

    def tell(message: FromChild) -> None:
        nonlocal stage
        if message.type == "stage":
            stage = message.stage
        elif message.type == "step" and stage is Stage.DENOISING:
            timeline.step(message.index, message.total)

    store, shelf = DiskStore(tools.scratch_dir / NAME), Shelf(tools.scratch_dir / "shelf")
    answer = make_film(run, replace(tools, store=store, shelf=shelf), tell, lambda: False)
    shelf.drop(NAME)
    with suppress(OSError):
        store.delete_prefix(run.artifact_prefix)
    if answer.type != "done":
        log.warning("rehearsal.failed", model=request.model, width=request.width)
        return None
    return timeline.sample(answer.result.peak_memory_mb, jobs=0)
