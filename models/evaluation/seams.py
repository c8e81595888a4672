"""How films of several clips hold together: jumps where a shot continues, drift over a minute."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

import numpy as np
from einops import reduce
from numpy.typing import NDArray

from models.evaluation.bench import Bench, ignore, task_of
from models.evaluation.prompts import Prompt
from models.evaluation.scores import mean
from models.protocol import Frames, Shot, Task
from models.training.captions import DIRECTIONS, caption

SEAMS, DRIFT = ("seam_ratio",), ("drift",)
COUNT = 24  # seams
SHOTS = 5  # of a film: one seam less
SHOT_FRAMES = 16
WHOLE_FILMS = 3  # each with as many seams
DRIFT_FILMS = 1  # of a minute, and as many of another subject for the control
DRIFT_S = 60
WINDOW = 16  # frames


def seam_ratio(bench: Bench) -> dict[str, Any]:
    """Change across each seam over the median change within the shots on both sides.

    Films of the base, of one subject that turns back in each shot. Control: the same shots cut
    instead of continued, taken as clips of their own. `whole_film` is of films as a bare order of
    the same story gets them, through all stages.
    """
    count = bench.count or COUNT
    moving = [prompt for prompt in bench.prompts if prompt.motion in DIRECTIONS]
    ratios: list[float] = []
    cuts: list[float] = []
    for prompt in bench.watched("seams", moving[: -(-count // (SHOTS - 1))]):
        film = bench.film(story(bench, prompt))
        ratios += ratios_of(changes(film), SHOT_FRAMES)
        alone = bench.text_clip(prompt)
        within = float(np.median(changes(alone)))
        other = bench.text_clip(moving[moving.index(prompt) - 1])
        cuts.append(float(_change(alone[-1], other[0])) / max(within, 1e-3))
    row = asdict(mean(ratios[:count], cuts))
    if bench.model is not bench.base:
        row |= {"whole_film": fmean(_whole_ratios(bench, moving[:WHOLE_FILMS]))}
    return {"seam_ratio": row}


def _whole_ratios(bench: Bench, prompts: Sequence[Prompt]) -> list[float]:
    ratios: list[float] = []
    for prompt in bench.watched("seams of whole films", prompts):
        task = whole(story(bench, prompt), task_of(bench.model, prompt))
        film = bench.model.generate(task, ignore)
        ratios += ratios_of(changes(film), task.shots[0].num_frames)
    return ratios


def whole(keys: Task, usual: Task) -> Task:
    """The base's story as one of the whole model: as long, in its usual size and rate.

    usual  a bare order's clip
    """
    dense = usual.fps / keys.fps
    shots = [replace(shot, num_frames=round(shot.num_frames * dense)) for shot in keys.shots]
    frames = sum(shot.num_frames for shot in shots)
    return replace(usual, task_type="story", shots=tuple(shots), num_frames=frames)


def story(bench: Bench, prompt: Prompt) -> Task:
    """The prompt's subject going there and back, shot by shot."""
    across, down = DIRECTIONS[prompt.motion]
    back = next(name for name, step in DIRECTIONS.items() if step == (-across, -down))
    shots = []
    for index in range(SHOTS):
        motion = back if index % 2 else prompt.motion
        words = caption(prompt.concept, motion, prompt.fast, prompt.scene)
        shots.append(Shot(words, SHOT_FRAMES, prompt.seed + index))
    frames = SHOTS * SHOT_FRAMES
    return bench.task(prompt, task_type="story", shots=tuple(shots), num_frames=frames)


def changes(film: Frames) -> NDArray[np.float64]:
    """Mean absolute change from each frame to the next, 0..255: (T - 1,)."""
    return reduce(np.abs(np.diff(film.astype(np.float64), axis=0)), "t h w c -> t", "mean")


def ratios_of(steps: NDArray[np.float64], shot: int) -> list[float]:
    """Every seam's change over the median of its two shots, all shots being `shot` frames long."""
    seams = range(shot - 1, len(steps), shot)
    ratios = []
    for seam in seams:
        around = np.r_[steps[seam - shot + 1 : seam], steps[seam + 1 : seam + shot]]
        ratios.append(float(steps[seam] / max(float(np.median(around)), 1e-3)))
    return ratios


def drift(bench: Bench) -> dict[str, Any]:
    """How far the background wanders in a minute of extensions, mean absolute change 0..1.

    The median over time of the film's last frames against that of the clip it goes on from; its
    camera and subject stand still. Control: the same against another film's beginning.
    """
    prompts = [prompt for prompt in bench.prompts if prompt.motion == "still"]
    sources = [bench.shown(prompt) for prompt in prompts[: DRIFT_FILMS + 1]]
    wandered, others, sharpness = [], [], []
    for index, prompt in enumerate(bench.watched("drift", prompts[:DRIFT_FILMS])):
        end = bench.film(_extension(bench, prompt, sources[index]))[-WINDOW:]
        wandered.append(_apart(end, sources[index]))
        others.append(_apart(end, sources[index + 1]))
        sharpness.append(_edges(end) / max(_edges(sources[index]), 1e-6))
    row = asdict(mean(wandered, others))
    return {"drift": row | {"seconds": DRIFT_S, "sharpness": fmean(sharpness)}}


def _extension(bench: Bench, prompt: Prompt, source: Frames) -> Task:
    task = bench.task(prompt, task_type="extend", video=source)
    seconds = min(DRIFT_S, bench.base.card.inputs.max_total_frames // task.fps)
    return bench.task(
        prompt, task_type="extend", video=source, video_fps=task.fps, num_frames=seconds * task.fps
    )


def _change(one: Frames, other: Frames) -> float:
    return float(np.abs(one.astype(np.float64) - other).mean())


def _apart(one: Frames, other: Frames) -> float:
    """Mean absolute difference of two clips' standing parts, 0..1."""
    return _change(np.median(one, 0), np.median(other, 0)) / 255


def _edges(clip: Frames) -> float:
    return float(np.abs(np.diff(clip.astype(np.float64), axis=2)).mean())
