"""Scores with what they must be held against: intervals, chance, shuffled prompts."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from torch import Tensor

from models.protocol import Frames

RESAMPLES = 2000  # of a bootstrap


@dataclass(frozen=True)
class Score:
    """A share of clips that are right, with its 95 % interval and its control."""

    value: float
    low: float
    high: float
    control: float  # the same share when every clip is held against other clips' prompts
    chance: float  # of a guess that knows the list of answers only
    n: int


@dataclass(frozen=True)
class Mean:
    """A mean over clips, with its 95 % interval and the same mean of a control."""

    value: float
    low: float
    high: float
    control: float
    n: int


@dataclass(frozen=True)
class Area:
    """A mean area under the curve; 0.5 is chance."""

    value: float
    control: float  # the same when every clip is held against other clips' prompts
    n: int


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share (Wilson 1927), 95 % by default.

    raises ValueError if n is not positive or `right` lies outside 0..n
    """
    if not 0 <= right <= n or n == 0:
        raise ValueError(f"{right} right of {n}: no share")
    share, extra = right / n, z * z / n
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * math.sqrt(share * (1 - share) / n + extra / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean(values: Sequence[float], control: Sequence[float]) -> Mean:
    """The mean with its interval by the bootstrap (Efron 1979): percentiles of means of resamples.

    raises ValueError if either is empty
    """
    if not values or not control:
        raise ValueError(f"{len(values)} values and {len(control)} controls: no mean")
    draw = random.Random("bootstrap")
    means = sorted(fmean(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    low, high = means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]
    return Mean(fmean(values), low, high, fmean(control), len(values))


def decibels(one: Frames, other: Frames) -> float:
    """Peak signal-to-noise ratio of equally shaped pictures or clips, uint8, at most 60 dB."""
    error = float(np.square(one.astype(np.float64) - other).mean())
    return 10 * math.log10(255**2 / max(error, 255**2 * 1e-6))


def score(n: int, matches: Callable[[int, int], bool], chance: float) -> Score:
    """Share of clips that match their prompt.

    matches  (clip, prompt) -> whether that clip shows what that prompt says

    The control is the mean over all n (n - 1) pairs of a clip and another clip's prompt: exactly
    what shuffling tends to.
    """
    right = sum(matches(clip, clip) for clip in range(n))
    wrong_pairs = n * (n - 1)
    shuffled = sum(matches(clip, prompt) for clip in range(n) for prompt in range(n)) - right
    low, high = wilson(right, n)
    control = shuffled / wrong_pairs if wrong_pairs else 0.0
    return Score(right / n, low, high, control, chance, n)


def area_under_curve(similarities: Tensor, truths: Sequence[int]) -> Area:
    """Chance that a clip is more similar to what it should show than to another concept.

    similarities  (n, concepts)
    truths        index of the concept each clip should show
    """
    below = (similarities[:, None, :] < similarities[:, :, None]).sum(2)
    level = (similarities[:, None, :] == similarities[:, :, None]).sum(2) - 1
    ranks = (below + 0.5 * level) / (similarities.shape[1] - 1)  # (n, concepts)
    n = len(truths)
    table = ranks[:, list(truths)]  # clip by prompt
    own = float(table.diagonal().sum())
    control = (float(table.sum()) - own) / (n * (n - 1)) if n > 1 else 0.5
    return Area(own / n, control, n)
