"""What each model can do, as plain data: tasks, sizes, frame rule, limits, defaults, licence.

The web side validates against these cards before the queue, so nothing that could have been
refused in milliseconds fails on the GPU. This module reads JSON and never loads torch.
"""

import hashlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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

OPEN = "openweights"  # the kind of model that others have trained
# What those are given, by kind of task: all of it, and nothing else.
TAKEN: dict[str, tuple[str, ...]] = {
    "text": (),
    "image": ("first_frame",),
    "first_last_frame": ("first_frame", "last_frame"),
    "reference": ("references",),
    "extend": ("video",),
    "story": ("shots",),
    "edit": ("video", "mask"),
}

# "native" is the scheduler that open weights come with.
SAMPLERS = ("dpmpp_2m", "ddim", "ancestral", "native")

STAGES = ("decoder", "interpolator", "student", "upsampler")  # of a preset, each optional

TURBO = "turbo"  # quality of open weights by a LoRA that makes do with few steps
# Qualities that change the network itself while a film is made: no other film can share its passes.
UNSHARED = frozenset({"fast", TURBO})

MAX_HEADER_BYTES = 2**24  # of an adapter file

ADAPTERS = "adapters"  # folder of adapter files beside a card

MODELS_DIR = Path(__file__).parent
REGISTERED = "models"  # folder of registered models in the data folder
CHECKPOINT = "checkpoint.json"  # beside a registered model's card: where its weights are


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
class CostCurve:
    """What a clip costs, as declared; a worker measures one clip and scales the curve by it.

    A volume is width * height * frames / 1e6, megapixels of film. A pass is one run of the
    network: two a step with guidance, one without. Of the seconds only the ratios between sizes
    matter once a worker has measured; memory without a declared slope refuses nothing.
    """

    lead_s: float = 0.1  # before the first step, at any size
    pass_s: float = 0.02  # a pass, at any size …
    pass_s_per_volume: float = 1.0  # … and for each megapixel of film …
    pass_volume: float | None = None  # … up to so many: stages after the network make the rest
    tail_s: float = 0.1  # after the last step, at any size …
    tail_s_per_volume: float = 1.0  # … and for each megapixel of film
    memory_mb: float = 0.0  # peak at any size: weights and runtime, MiB …
    memory_mb_per_volume: float = 0.0  # … and for each megapixel of film …
    memory_volume: float | None = None  # … up to so many: the rest is made piece by piece

    def __post_init__(self) -> None:
        numbers = (number for number in vars(self).values() if number is not None)
        if not all(isinstance(n, int | float) and 0 <= n < math.inf for n in numbers):
            raise ValueError(f"a cost curve holds finite numbers of at least 0: {self}")

    def step_s(self, volume: float, passes: int) -> float:
        """Seconds of one denoising step."""
        seen = volume if self.pass_volume is None else min(volume, self.pass_volume)
        return passes * (self.pass_s + self.pass_s_per_volume * seen)

    def peak_mb(self, volume: float) -> float:
        """MiB at the peak, as declared."""
        return self.memory_mb + self.memory_mb_per_volume * self.held(volume)

    def held(self, volume: float) -> float:
        """Megapixels of a film that are in memory together."""
        return volume if self.memory_volume is None else min(volume, self.memory_volume)

    def after_s(self, volume: float) -> float:
        """Seconds from the last denoising step to the stored film."""
        return self.tail_s + self.tail_s_per_volume * volume


@dataclass(frozen=True)
class InputLimits:
    """What a model takes besides words. The defaults are the most that the service carries."""

    max_references: int = 7  # of a job, and of a shot
    max_shots: int = 16
    # Of a result that is made piece by piece (extend, story), or of a source clip.
    max_total_frames: int = 4096
    first_frame_strength: Span = Span(0.0, 1.0, 1.0)
    last_frame_strength: Span = Span(0.0, 1.0, 1.0)
    reference_strength: Span = Span(0.0, 1.0, 1.0)
    upscale_factors: tuple[int, ...] = (2, 4)  # first is the default
    target_fps: Span = Span(1, 120, 24)
    edits_by_words: bool = False  # an edit needs no edited frame, only a prompt
    reference_roles: tuple[str, ...] = ("subject",)  # what references may show
    max_keyframes: int = 0  # pictures at any other frames of a clip
    masks: bool = False  # an edit is told by a mask what is made anew
    last_frame_sketches: bool = False  # a last frame may be a drawing of what it shall show


@dataclass(frozen=True)
class Fidelity:
    """How near a film of a quality came to the exact one of the same words and seed."""

    ssim: float  # structural similarity, 1 is the same film
    psnr_db: float  # peak signal-to-noise ratio, 99 is the same film
    speedup: float  # the exact film's seconds by this one's
    device: str
    size: str  # "WxH"
    frames: int
    steps: int  # of the exact film


@dataclass(frozen=True)
class Quality:
    """How much work a film is worth: steps of every stage."""

    name: str  # "draft", "standard" or "high"; of open weights "standard", "fast" or "turbo"
    base_steps: int | None = None  # see `fixed_steps`
    distilled: bool = False  # few steps, with guidance built in: a student's, or a LoRA's
    guidance: tuple[float, float] | None = None  # scales that a student was taught
    sha256: str = ""  # of the file that makes it so, if it is one
    fidelity: Fidelity | None = None  # None: exact, or nobody has measured it
    interpolation_steps: int = 4  # of each pass
    upsampler_steps: int = 3  # of each chunk
    temporal_decoder: bool = True

    def fixed_steps(self, task_type: str) -> int | None:
        """Steps of the key frames, which a request cannot change; None: those of the request.

        A distilled base knows words only; of other kinds the base itself draws the key frames. A
        LoRA changes whatever the network makes.
        """
        student = self.distilled and self.name != TURBO
        return None if student and task_type != "text" else self.base_steps

    @property
    def exact(self) -> bool:
        """Of open weights: whether it makes what the checkpoint makes."""
        return self.name not in UNSHARED


@dataclass(frozen=True)
class CascadeRule:
    """What a model makes through stages after its base, and how."""

    key_fps: int  # rate of the base's key frames; the other rates are filled in between
    base_size: str  # "WxH" of the key frames
    sizes: tuple[str, ...] = ()  # made by the upsampler, first is the default
    fps: tuple[int, ...] = ()  # made by the interpolator, first is the default
    min_seconds: float = 1.0
    max_seconds: float = 4.0  # of a film of one clip
    qualities: tuple[Quality, ...] = ()  # first is the default

    def quality(self, name: str | None) -> Quality:
        """The quality of this name, the default for None.

        raises ValueError naming those there are
        """
        known = {quality.name: quality for quality in self.qualities}
        if name is None and self.qualities:
            return self.qualities[0]
        if name not in known:
            raise ValueError(f"quality {name!r}: {sorted(known)}")
        return known[name]


@dataclass(frozen=True)
class AdapterCard:
    """A personal subject that a model was taught besides, in a file of the folder `adapters`."""

    id: str
    word: str  # the rare word that calls it in prompts
    kind: str  # what it is
    sha256: str = ""  # hex digest of the file


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
    cost: CostCurve = CostCurve()
    inputs: InputLimits = InputLimits()
    cascade: CascadeRule | None = None  # None: what the base makes is all there is
    adapters: tuple[AdapterCard, ...] = ()  # those in the folder beside the card
    tiers: tuple[Quality, ...] = ()  # of a model without stages, first is the default
    guidance_defaults: tuple[tuple[str, float], ...] = ()  # of kinds of job with one of their own

    @property
    def qualities(self) -> tuple[Quality, ...]:
        """What a request may ask for as `quality`; the first is the default."""
        return self.tiers if self.cascade is None else self.cascade.qualities

    def for_kind(self, task_type: str) -> "ModelCard":
        """The card of one kind of job: it may have a default guidance of its own, and clips are
        enlarged by the upsampler's factor to its sizes."""
        own = dict(self.guidance_defaults).get(task_type)
        if own is not None and own != self.guidance.default:
            return replace(self, guidance=replace(self.guidance, default=own)).for_kind(task_type)
        rule = self.cascade
        if rule is None or task_type != "upscale" or not rule.sizes:
            return self
        small, large = (int(size.split("x")[0]) for size in (rule.base_size, rule.sizes[0]))
        inputs = replace(self.inputs, upscale_factors=(large // small,))
        return replace(self, sizes=rule.sizes, inputs=inputs)

    def rates_at(self, size: str) -> tuple[int, ...]:
        """The rates at which films of this size can be made; the first is the default."""
        rule = self.cascade
        if rule is None or size in (rule.base_size, *rule.sizes):
            return self.fps
        return tuple(rate for rate in self.fps if rate not in rule.fps)

    def staged(self, size: str, fps: int) -> bool:
        """Whether a clip goes through stages after the base."""
        return self.cascade is not None and (size in self.cascade.sizes or fps in self.cascade.fps)

    def frames_at(self, fps: int) -> FrameRule:
        """Legal frame counts at a rate: where frames are filled in, length in seconds counts."""
        if self.cascade is None or fps not in self.cascade.fps:
            return self.frames
        shortest, longest = self.cascade.min_seconds * fps, self.cascade.max_seconds * fps
        return FrameRule(0, 1, math.ceil(shortest), math.floor(longest))

    def default_frames_at(self, fps: int) -> int:
        """Frames of a film whose length nobody asked for; with stages, as long at any rate."""
        if self.cascade is None:
            return self.default_frames
        return self.frames_at(fps).nearest(self.default_frames * fps / self.fps[0])


def read_card(path: Path) -> ModelCard:
    """Read a card from its JSON file; it offers only what the weights beside it can make.

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
                "guidance_defaults": tuple(fields.get("guidance_defaults", {}).items()),
                "samplers": tuple(fields["samplers"]),
                "cost": CostCurve(**fields.get("cost", {})),
                "inputs": read_input_limits(fields.get("inputs", {})),
                "cascade": taught(read_cascade(fields.get("cascade")), path.parent),
                "tiers": tuple(map(read_tier, fields.get("tiers", ()))),
                "adapters": tuple(map(read_adapter_card, adapter_paths(path.parent))),
            }
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a model card: {error}") from error
    for kind, scale in card.guidance_defaults:
        if kind not in TASKS or not card.guidance.allows(scale):
            raise ValueError(f"{path}: guidance_defaults: {kind!r}: {scale}")
    unknown = (card.tasks - set(TASKS)) | (set(card.samplers) - set(SAMPLERS))
    if unknown:
        raise ValueError(f"{path}: unknown tasks or samplers {sorted(unknown)}")
    return fitted(card, frozenset(stage for stage in STAGES if has_stage(path.parent, stage)))


def read_tier(fields: dict[str, Any]) -> Quality:
    """A quality of open weights, with its fidelity if that is known."""
    told = fields.get("fidelity")
    return Quality(**fields | {"fidelity": None if told is None else Fidelity(**told)})


def read_cascade(fields: dict[str, Any] | None) -> CascadeRule | None:
    """The stages after the base that a card declares."""
    if fields is None:
        return None
    parts = {name: tuple(fields.get(name, ())) for name in ("sizes", "fps")}
    qualities = tuple(Quality(**quality) for quality in fields.get("qualities", ()))
    return CascadeRule(**fields | parts | {"qualities": qualities})


def taught(rule: CascadeRule | None, folder: Path) -> CascadeRule | None:
    """The same with the scales of guidance that the distilled base in this folder was taught."""
    path = folder / "student.json"
    if rule is None or not path.exists():
        return rule
    least, most = json.loads(path.read_text(encoding="utf-8"))["guidance"]
    qualities = (
        replace(quality, guidance=(least, most)) if quality.distilled else quality
        for quality in rule.qualities
    )
    return replace(rule, qualities=tuple(qualities))


def adapter_paths(folder: Path) -> list[Path]:
    """The adapter files of a preset, in name order."""
    return sorted((folder / ADAPTERS).glob("*.safetensors"))


def read_adapter_card(path: Path) -> AdapterCard:
    """What an adapter file says about itself: a safetensors header, a length and JSON.

    raises ValueError if it is none
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
        meta = header["__metadata__"]
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return AdapterCard(path.stem, str(meta["word"]), str(meta["kind"]), sha256)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not an adapter: {error}") from error


def has_stage(folder: Path, name: str) -> bool:
    """Whether a preset has this stage: whether its weights are there."""
    return (folder / f"{name}.safetensors").exists()


def fitted(card: ModelCard, stages: frozenset[str]) -> ModelCard:
    """The card as these stages allow: no size, rate, kind of job or quality that lacks one.

    What the cascade makes comes first in sizes and rates, and so becomes the default.
    """
    rule = card.cascade
    if rule is None or not stages & {"interpolator", "upsampler"}:
        missing = {"interpolate", "upscale"} if rule else set()
        return replace(card, cascade=None, tasks=card.tasks - missing)
    rule = replace(
        rule,
        sizes=rule.sizes if "upsampler" in stages else (),
        fps=rule.fps if "interpolator" in stages else (),
        qualities=tuple(q for q in rule.qualities if "student" in stages or not q.distilled),
    )
    kinds = {"interpolate": bool(rule.fps), "upscale": bool(rule.sizes)}
    rates = (*rule.fps, *(rate for rate in card.fps if rate not in rule.fps))
    return replace(
        card,
        cascade=rule,
        default_frames=round(card.default_frames * rates[0] / card.fps[0]),
        tasks=card.tasks - {kind for kind, made in kinds.items() if not made},
        sizes=(*rule.sizes, *(size for size in card.sizes if size not in rule.sizes)),
        fps=rates,
        cost=replace(card.cost, memory_volume=longest_clip(rule, card)),
    )


def longest_clip(rule: CascadeRule, card: ModelCard) -> float:
    """Megapixels of the largest film of one clip; longer ones are made piece by piece."""
    sizes = (size.split("x") for size in (*rule.sizes, *card.sizes))
    pixels = max(int(width) * int(height) for width, height in sizes)
    return pixels * rule.max_seconds * max((*rule.fps, *card.fps)) / 1e6


def read_input_limits(fields: dict[str, Any]) -> InputLimits:
    """The limits that a card declares; what it leaves out is the service's own."""
    spans = {
        name: Span(**value)
        for name, value in fields.items()
        if name.endswith(("_fps", "_strength"))
    }
    lists = {
        name: tuple(fields.get(name, getattr(InputLimits, name)))
        for name in ("upscale_factors", "reference_roles")
    }
    return InputLimits(**fields | spans | lists)


def card_paths(models_dir: Path = MODELS_DIR) -> list[Path]:
    """The card files of every model folder below `models_dir`, in name order."""
    return sorted(models_dir.glob("*/card.json"))


def read_catalog(*models_dirs: Path) -> dict[str, ModelCard]:
    """Every model below these folders by id, those of the package if none is named.

    raises ValueError if a card is malformed or two models share an id.
    """
    cards: dict[str, ModelCard] = {}
    for path in (path for folder in models_dirs or (MODELS_DIR,) for path in card_paths(folder)):
        card = read_card(path)
        if card.id in cards:
            raise ValueError(f"{path}: model id {card.id!r} is taken")
        cards[card.id] = card
    return cards


def read_offer(data_dir: Path) -> dict[str, ModelCard]:
    """Every model of the package, and those registered in a data folder, by id.

    raises ValueError as `read_catalog`
    """
    return read_catalog(MODELS_DIR, data_dir / REGISTERED)


def turbo_path(folder: Path) -> Path:
    """Where a registered model's LoRA for few steps lies, if it has one."""
    return folder / f"{TURBO}.safetensors"


def registered_folder(data_dir: Path, model_id: str) -> Path | None:
    """The folder of a registered model's card; None if there is no such model."""
    folder = data_dir / REGISTERED / model_id
    return folder if (folder / CHECKPOINT).is_file() else None
