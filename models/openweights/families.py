"""What each family of open weights can do, told from its JSON alone: no weight is read, no torch.

A pipeline class that is not in the table is refused by name: a signature shows which inputs a
pipeline has, but not what they mean or which of them a checkpoint was trained for.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from models.catalog import OPEN
from models.openweights.folder import SUBJECTS, Checkpoint, FolderError
from models.openweights.progress import DENOISERS
from models.openweights.tiers import FAST

MAX_STEPS = 200
MAX_GUIDANCE = 20.0
SAMPLER = "native"  # the scheduler that the checkpoint comes with
MEMORY_FACTOR = 1.2  # of the weights, for activations at any size, until a worker has measured it
MIB = 2**20


@dataclass(frozen=True)
class Family:
    """The limits of one checkpoint; in the table those of its class, fitted to its configs."""

    adapter: str  # which of ours drives it
    title: str
    tasks: frozenset[str]
    sizes: tuple[str, ...]  # "WxH", first is the default
    multiple: int  # of width and height, in pixels
    frame_step: int  # legal counts are 1 + a multiple of it
    default_frames: int
    max_frames: int
    fps: tuple[int, ...]
    steps: int
    guidance: float
    needs: tuple[str, ...]  # parts without which it makes nothing
    keyframes: int = 0  # pictures at any other frames, at most
    masks: bool = False  # a mask says which part of a clip is made anew
    references: int = 0  # pictures of what the film shall show, at most
    # Prompts that are longer are certainly cut off, see `models.openweights.words`: 8 characters to
    # each token that is read, where languages have 3 to 5. 0: it reads no words.
    max_prompt_chars: int = 8000
    reference_strengths: bool = False  # those are followed more or less
    fades: bool = False  # the last frame may be seen at some steps only
    fast: bool = False  # made of blocks that diffusers' step cache knows
    batches: bool = True  # films of words may share the passes of its networks
    loras: bool = True  # may be changed by LoRA files
    packs: bool = False  # a GGUF file may be its denoiser: diffusers can read one
    exact_sizes: bool = False  # trained at its sizes only: no others may be added
    exact_frames: bool = False  # likewise, of `max_frames`


Fit = Callable[[Family, Checkpoint], Family]

TEXT_PARTS = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
P480 = ("832x480", "480x832", "624x624")
P720 = ("1280x720", "720x1280", "960x960")
OPEN_FLOW = ("1280x704", "704x1280", "960x960", "832x480", "480x832")


def fit_wan(family: Family, checkpoint: Checkpoint) -> Family:
    """Wan 2.2 has two experts or, at 5B, times of its own for each latent frame."""
    index = checkpoint.index
    if index.get("boundary_ratio") is not None:
        # A LoRA is of one expert; which one, files do not say.
        family = replace(family, needs=(*family.needs, "transformer_2"), loras=False)
    if index.get("expand_timesteps"):
        # The autoencoder of the 5B halves the sides once more.
        return replace(
            family,
            title="Wan 2.2 5B",
            tasks=frozenset({"text", "image"}),
            sizes=tuple(size for size in OPEN_FLOW if on_grid(size, 32)),
            multiple=32,
            default_frames=121,
            max_frames=121,
            fps=(24,),
        )
    return family


def fit_wan_images(family: Family, checkpoint: Checkpoint) -> Family:
    """Whether the network was taught first frames, last frames, or both together."""
    if checkpoint.index.get("expand_timesteps"):
        family = fit_wan(family, checkpoint)
        return replace(family, tasks=frozenset({"image"}))  # it would ignore a last frame silently
    denoiser = checkpoint.configs.get("transformer", {})
    family = fit_wan(family, checkpoint)
    if denoiser.get("image_dim") is None:  # 2.2: frames reach it as latents only
        return replace(family, tasks=frozenset({"image", "first_last_frame"}), fades=True)
    needs = (*family.needs, "image_encoder", "image_processor")
    both = denoiser.get("pos_embed_seq_len") is not None
    tasks = frozenset({"first_last_frame" if both else "image"})
    return replace(family, tasks=tasks, needs=needs)


def fit_cogvideox(family: Family, checkpoint: Checkpoint) -> Family:
    """Size and length are those of training: its position embeddings fit no others."""
    denoiser = checkpoint.configs.get("transformer", {})
    frames = int(denoiser.get("sample_frames", 49))
    sides = (
        int(denoiser.get(f"sample_{side}", d)) * 8 for side, d in (("width", 90), ("height", 60))
    )
    frames -= (frames - 1) % family.frame_step
    newer = denoiser.get("patch_size_t") is not None
    return replace(
        family,
        title="CogVideoX 1.5" if newer else "CogVideoX",
        sizes=("x".join(map(str, sides)),),
        default_frames=frames,
        max_frames=frames,
        fps=(16,) if newer else (8,),
    )


def fit_hunyuan15(family: Family, checkpoint: Checkpoint) -> Family:
    """Sizes lie around the square that its network was trained at."""
    square = int(checkpoint.configs.get("transformer", {}).get("target_size", 640))
    sizes = tuple(f"{w}x{h}" for w, h in hunyuan_sizes(square))
    return replace(family, sizes=sizes)


def fit_svd(family: Family, checkpoint: Checkpoint) -> Family:
    """SVD was trained at 14 frames, XT at 25."""
    frames = int(checkpoint.configs.get("unet", {}).get("num_frames", 25))
    return replace(family, default_frames=frames, max_frames=frames)


def fit_animatediff(family: Family, checkpoint: Checkpoint) -> Family:
    """The motion module sees so many frames at once, and no more. With an IP-Adapter, pictures
    may say what the film shall show."""
    module = checkpoint.configs.get("motion_adapter", {})
    most = int(module.get("motion_max_seq_length", 32))
    family = replace(family, max_frames=most, default_frames=min(family.default_frames, most))
    if not any(path.parts[0] == SUBJECTS for path in checkpoint.weights):
        return family
    return replace(
        family,
        tasks=family.tasks | {"reference"},
        needs=(*family.needs, "image_encoder", "feature_extractor"),
        references=4,
        reference_strengths=True,
        batches=False,  # what its networks see of pictures stands in no argument of its own
    )


def as_it_is(family: Family, checkpoint: Checkpoint) -> Family:
    """A family whose checkpoints differ in nothing that a request could ask for."""
    return family


def hunyuan_sizes(square: int, multiple: int = 16) -> tuple[tuple[int, int], ...]:
    """Wide, square and high, (width, height), with about the area of a square of this side.

    Differs from a free choice: the pipeline for first frames picks its size by the picture's shape
    from a list, so these are the entries nearest to 16:9, 1:1 and 9:16 that it picks for a picture
    of their own size.
    """
    area = round((square / multiple) ** 2)
    high, wide = area, 1
    listed = []
    while high > 0:
        if max(wide, high) <= 4 * min(wide, high) and picks_itself(wide, high):
            listed.append((wide * multiple, high * multiple))
        high, wide = (high, wide + 1) if high * (wide + 1) <= area else (high - 1, wide)
    nearest = (min(listed, key=lambda s: abs(s[0] / s[1] - r)) for r in (16 / 9, 1.0, 9 / 16))
    return tuple(dict.fromkeys(nearest))


def picks_itself(wide: int, high: int) -> bool:
    """Whether the pipeline, which rounds the shapes in its list and never picks one that is longer,
    finds this one for itself."""
    listed = round(high / wide, 5)
    return listed <= high / wide if high >= wide else listed >= high / wide


WAN = Family(
    adapter="wan",
    title="Wan",
    fast=True,
    packs=True,
    tasks=frozenset({"text"}),
    sizes=(*P480, *P720),
    multiple=16,
    frame_step=4,
    default_frames=81,
    max_frames=121,
    fps=(16,),
    steps=50,
    guidance=5.0,
    needs=TEXT_PARTS,
    max_prompt_chars=8 * 512,
)
LTX = Family(
    adapter="ltx",
    title="LTX-Video",
    fast=True,
    packs=True,
    tasks=frozenset({"text", "image", "first_last_frame"}),
    sizes=("704x512", "512x704", "768x512", "512x768", "1216x704", "704x1216"),
    multiple=32,
    frame_step=8,
    default_frames=161,
    max_frames=257,
    fps=(25, 24, 30),
    keyframes=8,
    steps=50,
    guidance=3.0,
    needs=TEXT_PARTS,
    max_prompt_chars=8 * 256,
)
LTX_WORDS = replace(
    LTX,
    adapter="ltx_words",
    tasks=frozenset({"text"}),
    keyframes=0,
    max_prompt_chars=8 * 128,
)
COGVIDEOX = Family(
    adapter="cogvideox",
    title="CogVideoX",
    fast=True,
    tasks=frozenset({"text"}),
    sizes=("720x480",),
    multiple=16,
    frame_step=4,
    default_frames=49,
    max_frames=49,
    fps=(8,),
    steps=50,
    guidance=6.0,
    needs=TEXT_PARTS,
    exact_sizes=True,
    exact_frames=True,
    max_prompt_chars=8 * 226,
)
HUNYUAN15 = Family(
    adapter="hunyuan",
    title="HunyuanVideo 1.5",
    tasks=frozenset({"text"}),
    sizes=("848x480",),
    multiple=16,
    frame_step=4,
    default_frames=121,
    max_frames=121,
    fps=(24,),
    steps=50,
    guidance=6.0,
    needs=(*TEXT_PARTS, "guider", "text_encoder_2", "tokenizer_2"),
    loras=False,
)
HUNYUAN = replace(
    HUNYUAN15,
    adapter="hunyuan1",
    title="HunyuanVideo",
    sizes=("1280x720", "720x1280", "960x960", "960x544", "544x960", "720x720"),
    default_frames=129,
    max_frames=129,
    needs=(*TEXT_PARTS, "text_encoder_2", "tokenizer_2"),
    max_prompt_chars=8 * 256,
    loras=True,
    packs=True,
)
FRAMEPACK = replace(
    HUNYUAN,
    adapter="framepack",
    packs=False,
    title="HunyuanVideo FramePack",
    tasks=frozenset({"image", "first_last_frame"}),
    sizes=("832x480", "480x832", "608x608", "704x544", "544x704"),
    frame_step=36,  # a piece
    default_frames=145,
    max_frames=1 + 36 * 50,
    fps=(30, 24),
    steps=25,
    guidance=10.0,
    needs=(*HUNYUAN.needs, "image_encoder", "feature_extractor"),
)
LTX2 = replace(
    LTX,
    adapter="ltx2",
    keyframes=0,  # they could be placed at every eighth frame only
    title="LTX-2",
    fast=False,
    sizes=("768x512", "512x768", "960x544", "544x960", "1280x704", "704x1280"),
    default_frames=121,
    max_frames=481,
    fps=(24, 25, 30, 48, 50),
    steps=30,
    needs=(*TEXT_PARTS, "audio_vae", "connectors", "vocoder"),
    max_prompt_chars=8000,
)
UNET_PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
VACE = replace(
    WAN,
    adapter="vace",
    title="Wan VACE",
    fast=False,
    tasks=frozenset({"text", "image", "first_last_frame", "reference", "edit"}),
    references=4,
    keyframes=8,
    masks=True,
)
SVD = Family(
    adapter="svd",
    title="Stable Video Diffusion",
    tasks=frozenset({"image"}),
    sizes=("1024x576", "576x1024"),
    multiple=64,
    frame_step=1,
    default_frames=25,
    max_frames=25,
    fps=(7, 6, 8, 10, 12, 15, 24, 25, 30),
    steps=25,
    guidance=3.0,
    needs=("feature_extractor", "image_encoder", "scheduler", "unet", "vae"),
    loras=False,
    exact_frames=True,
    max_prompt_chars=0,
)
ANIMATEDIFF = Family(
    adapter="animatediff",
    title="AnimateDiff",
    tasks=frozenset({"text"}),
    sizes=("512x512", "768x512", "512x768"),
    multiple=8,
    frame_step=1,
    default_frames=16,
    max_frames=32,
    fps=(8,),
    steps=50,
    guidance=7.5,
    needs=(*UNET_PARTS, "motion_adapter"),
    exact_frames=True,
    max_prompt_chars=8 * 77,
)
MODELSCOPE = replace(
    ANIMATEDIFF,
    title="ModelScope",
    sizes=("256x256", "576x320", "320x576"),
    guidance=9.0,
    needs=UNET_PARTS,
    exact_frames=False,
    loras=False,
)
IMAGE = frozenset({"image"})

FAMILIES: dict[str, tuple[Family, Fit]] = {
    "WanPipeline": (WAN, fit_wan),
    "WanImageToVideoPipeline": (WAN, fit_wan_images),
    "LTXConditionPipeline": (LTX, as_it_is),
    "LTXPipeline": (LTX_WORDS, as_it_is),
    "LTX2ConditionPipeline": (LTX2, as_it_is),
    "LTX2ImageToVideoPipeline": (LTX2, as_it_is),
    "LTX2Pipeline": (LTX2, as_it_is),
    "CogVideoXPipeline": (COGVIDEOX, fit_cogvideox),
    "CogVideoXImageToVideoPipeline": (replace(COGVIDEOX, tasks=IMAGE), fit_cogvideox),
    "HunyuanVideo15Pipeline": (HUNYUAN15, fit_hunyuan15),
    "HunyuanVideo15ImageToVideoPipeline": (
        replace(
            HUNYUAN15,
            tasks=IMAGE,
            needs=(*HUNYUAN15.needs, "image_encoder", "feature_extractor"),
            exact_sizes=True,
        ),
        fit_hunyuan15,
    ),
    "HunyuanVideoPipeline": (HUNYUAN, as_it_is),
    "HunyuanVideoFramepackPipeline": (FRAMEPACK, as_it_is),
    "WanVACEPipeline": (VACE, fit_wan),
    "StableVideoDiffusionPipeline": (SVD, fit_svd),
    "AnimateDiffPipeline": (ANIMATEDIFF, fit_animatediff),
    "TextToVideoSDPipeline": (MODELSCOPE, as_it_is),
}


def read_family(checkpoint: Checkpoint) -> Family:
    """The limits of a checkpoint.

    raises FolderError for a pipeline that nobody here drives, or a part that is missing
    """
    if checkpoint.pipeline not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise FolderError(
            f"{checkpoint.folder}: pipeline {checkpoint.pipeline!r} is none of {known}"
        )
    family, fit = FAMILIES[checkpoint.pipeline]
    family = fit(family, checkpoint)
    missing = [name for name in family.needs if name not in checkpoint.configs]
    if missing:
        raise FolderError(f"{checkpoint.folder}: {', '.join(missing)}: not named by its index")
    if checkpoint.packed and not family.packs:
        raise FolderError(f"{checkpoint.folder}: {family.title} takes no GGUF file")
    if strange := sorted(set(checkpoint.packed) - set(DENOISERS)):
        raise FolderError(f"{checkpoint.folder}: a GGUF file is for {strange[0]}, no denoiser")
    if "image" in family.tasks:  # a clip may begin with the end of another
        more = {"extend", "story"} if "text" in family.tasks else {"extend"}
        family = replace(family, tasks=family.tasks | more)
    # What is left out of a step is all blocks but the first.
    layers = checkpoint.configs.get("transformer", {}).get("num_layers", 0)
    return replace(family, fast=family.fast and layers > 1)


def on_grid(size: str, multiple: int) -> bool:
    """Whether both sides of "WxH" are multiples."""
    return all(
        side.isdecimal() and int(side) > 0 and int(side) % multiple == 0 for side in parts(size)
    )


def parts(size: str) -> list[str]:
    """The two sides of "WxH"; of anything else, something that is on no grid."""
    sides = size.split("x")
    return sides if len(sides) == 2 else [""]


@dataclass(frozen=True)
class Wishes:
    """What an operator sets besides what a checkpoint says; None leaves it as it is."""

    sizes: tuple[str, ...] = ()
    frames: int | None = None
    steps: int | None = None
    guidance: float | None = None
    fps: int | None = None


def adjust(family: Family, wishes: Wishes) -> Family:
    """The family with an operator's defaults. raises FolderError naming value and limit"""
    for size in wishes.sizes:
        if family.exact_sizes and size not in family.sizes:
            raise FolderError(f"size {size}: it was trained at {', '.join(family.sizes)} only")
        if not on_grid(size, family.multiple):
            raise FolderError(f"size {size}: both sides are multiples of {family.multiple}")
    frames = family.default_frames if wishes.frames is None else wishes.frames
    if (frames - 1) % family.frame_step or frames <= family.frame_step:
        raise FolderError(f"frames {frames}: 1 + a multiple of {family.frame_step}")
    if family.exact_frames and frames > family.max_frames:
        raise FolderError(f"frames {frames}: {family.max_frames} at most")
    steps = family.steps if wishes.steps is None else wishes.steps
    guidance = family.guidance if wishes.guidance is None else wishes.guidance
    if not 1 <= steps <= MAX_STEPS or not 1 <= guidance <= MAX_GUIDANCE:
        raise FolderError(
            f"steps {steps}, guidance {guidance:g}: 1..{MAX_STEPS}, 1..{MAX_GUIDANCE:g}"
        )
    rates = family.fps if wishes.fps is None else (wishes.fps, *family.fps)
    if not all(1 <= rate <= 120 for rate in rates):
        raise FolderError(f"fps {wishes.fps}: 1..120")
    return replace(
        family,
        sizes=tuple(dict.fromkeys((*wishes.sizes, *family.sizes))),
        default_frames=frames,
        max_frames=max(frames, family.max_frames),
        steps=steps,
        guidance=guidance,
        fps=tuple(dict.fromkeys(rates)),
    )


def card_fields(
    name: str, family: Family, checkpoint: Checkpoint, licence: str, created: int
) -> dict[str, Any]:
    """A model card as `models.catalog.read_card` takes it."""
    step, fixed = family.frame_step, {"minimum": 1.0, "maximum": 1.0, "default": 1.0}
    return {
        "id": name,
        "title": family.title,
        "description": f"Open weights, {checkpoint.pipeline} of diffusers.",
        "licence": licence,
        "owned_by": "open weights",
        "created": created,
        "kind": OPEN,
        "tasks": sorted(family.tasks),
        "sizes": list(family.sizes),
        "frames": {"offset": 1, "step": step, "minimum": 1 + step, "maximum": family.max_frames},
        "default_frames": family.default_frames,
        "fps": list(family.fps),
        "steps": {"minimum": 1, "maximum": MAX_STEPS, "default": family.steps},
        "guidance": {"minimum": 1.0, "maximum": MAX_GUIDANCE, "default": family.guidance},
        "samplers": [SAMPLER],
        "max_prompt_chars": family.max_prompt_chars,
        "resumable": True,
        "batchable": family.batches and "text" in family.tasks,
        "cost": {"memory_mb": round(checkpoint.weight_bytes * MEMORY_FACTOR / MIB)},
        "tiers": [{"name": "standard"}, {"name": FAST}] if family.fast else [],
        "inputs": {
            "max_references": family.references,
            "max_keyframes": family.keyframes,
            "masks": family.masks,
            "first_frame_strength": fixed,
            "last_frame_strength": fixed | {"minimum": 0.0 if family.fades else 1.0},
            "reference_strength": fixed | {"minimum": 0.0 if family.reference_strengths else 1.0},
        },
    }
