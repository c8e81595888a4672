"""What each model can do, as plain data: tasks, sizes, frame rule, limits, defaults, licence.

The web side validates against these cards before the queue, so nothing that could have been
refused in milliseconds fails on the GPU. This module reads JSON and never loads torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path

TASKS = (
    "text",
    "image",
    "reference",
    "first_last_frame",
    "extend",
    "story",
    "interpolate",
    "upscale",
    "edit",
)

SAMPLERS = ("dpmpp_2m", "ddim", "ancestral")

MODELS_DIR = Path(__file__).parent


@dataclass(frozen=True)
class FrameRule:
    """Legal frame counts: `offset + k * step` within [minimum, maximum]."""

    offset: int
    step: int
    minimum: int
    maximum: int

    def allows(self, frames: int) -> bool:
        """Whether the model can make a clip of exactly this many frames."""
        in_range = self.minimum <= frames <= self.maximum
        return in_range and (frames - self.offset) % self.step == 0

    def nearest(self, frames: float) -> int:
        """The legal count closest to a wish; ties go to the longer clip."""
        counts = range(self.minimum, self.maximum + 1, self.step)
        return min(counts, key=lambda count: (abs(count - frames), -count))


@dataclass(frozen=True)
class Span:
    """A closed numeric range with its default."""

    minimum: float
    maximum: float
    default: float

    def allows(self, value: float) -> bool:
        """Whether the value lies in the range; NaN never does."""
        return self.minimum <= value <= self.maximum


@dataclass(frozen=True)
class ModelCard:
    """One model's declared abilities and limits, as served by `GET /v1/videos/models`."""

    id: str
    title: str
    description: str
    licence: str
    owned_by: str
    created: int  # Unix seconds of the release
    kind: str  # "videoldm" or "openweights"
    tasks: frozenset[str]
    sizes: tuple[str, ...]  # "WxH" in pixels, first is the default
    frames: FrameRule
    default_frames: int
    fps: tuple[int, ...]  # frames per second, first is the default
    steps: Span  # denoising steps
    guidance: Span  # 1 is unguided
    samplers: tuple[str, ...]  # first is the default
    max_prompt_chars: int
    resumable: bool
    batchable: bool


def read_card(path: Path) -> ModelCard:
    """Read a card from its JSON file.

    raises ValueError if a task or sampler is unknown, or a field is missing or unexpected.
    """
    fields = json.loads(path.read_text(encoding="utf-8"))
    try:
        card = ModelCard(
            **fields
            | {
                "tasks": frozenset(fields["tasks"]),
                "sizes": tuple(fields["sizes"]),
                "frames": FrameRule(**fields["frames"]),
                "fps": tuple(fields["fps"]),
                "steps": Span(**fields["steps"]),
                "guidance": Span(**fields["guidance"]),
                "samplers": tuple(fields["samplers"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a model card: {error}") from error
    unknown = (card.tasks - set(TASKS)) | (set(card.samplers) - set(SAMPLERS))
    if unknown:
        raise ValueError(f"{path}: unknown tasks or samplers {sorted(unknown)}")
    return card


def card_paths(models_dir: Path = MODELS_DIR) -> list[Path]:
    """The card files of every model folder below `models_dir`, in name order."""
    return sorted(models_dir.glob("*/card.json"))


def read_catalog(models_dir: Path = MODELS_DIR) -> dict[str, ModelCard]:
    """Every model below `models_dir` by id.

    raises ValueError if a card is malformed or two models share an id.
    """
    cards: dict[str, ModelCard] = {}
    for path in card_paths(models_dir):
        card = read_card(path)
        if card.id in cards:
            raise ValueError(f"{path}: model id {card.id!r} is taken")
        cards[card.id] = card
    return cards
