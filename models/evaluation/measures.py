"""Every measure by the names of its rows, and which of them a model can be held to.

A model is measured in what its card declares; what it cannot do has no row in the report.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from models.catalog import ModelCard
from models.evaluation import adherence, given, identity, rates, seams, stages
from models.evaluation.bench import Bench

Rows = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """Rows that are measured together."""

    names: tuple[str, ...]
    rows: Callable[[Bench], Rows]
    serves: Callable[[ModelCard], bool]  # whether such a model has what is measured

    def needed(self, only: Collection[str]) -> bool:
        """Whether any of its rows is asked for; all are where none is named."""
        return not only or bool(set(only) & set(self.names))


def _has(task_type: str) -> Callable[[ModelCard], bool]:
    return lambda card: task_type in card.tasks


MEASURES: tuple[Measure, ...] = (
    Measure(adherence.NAMES, adherence.adherence, _has("text")),
    Measure(given.FIRST, given.first_frame, _has("image")),
    Measure(given.LAST, given.last_frame, _has("first_last_frame")),
    Measure(given.SKETCH, given.sketched, lambda card: card.inputs.last_frame_sketches),
    Measure(identity.NAMES, identity.reference_gain, _has("reference")),
    Measure(seams.SEAMS, seams.seam_ratio, _has("story")),
    Measure(seams.DRIFT, seams.drift, _has("extend")),
    Measure(rates.NAMES, rates.fps_consistency, lambda card: len(rates.rates_of(card)) > 1),
    Measure(
        ("interpolation_gain_db", "upscale_gain_db", "decoder_flicker_ratio"),
        stages.gains,
        lambda card: card.cascade is not None,
    ),
    Measure(
        ("student_ratio",),
        stages.student_ratio,
        lambda card: card.cascade is not None and any(q.distilled for q in card.cascade.qualities),
    ),
    Measure(
        (
            "clip_seconds_standard",
            "clip_seconds_preview",
            "clip_seconds_draft",
            "clip_seconds_high",
        ),
        stages.clip_seconds,
        lambda card: bool(stages.seconds_names(card)),
    ),
)
NAMES = tuple(name for measure in MEASURES for name in measure.names)


def chosen(card: ModelCard, only: Sequence[str]) -> tuple[Measure, ...]:
    """The measures to take.

    only    names of rows; none for all that the card allows
    raises  ValueError for a name there is not, or one that the card rules out
    """
    unknown = sorted(set(only) - set(NAMES))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: the measures are {', '.join(NAMES)}")
    wanted = tuple(measure for measure in MEASURES if measure.needed(only))
    if only:
        barred = [name for m in wanted if not m.serves(card) for name in m.names if name in only]
        if barred:
            raise ValueError(f"{', '.join(barred)}: {card.id} declares {sorted(card.tasks)}")
    return tuple(measure for measure in wanted if measure.serves(card))


def measured(bench: Bench, only: Sequence[str] = ()) -> Rows:
    """The rows of the report.

    raises ValueError as `chosen` does; GateError if a checker fails on known clips
    """
    rows: Rows = {}
    for measure in chosen(bench.model.card, only):
        rows |= measure.rows(bench)
    return rows
