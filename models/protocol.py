"""The one door to every video model: what goes in, what is told on the way, what comes out.

Two kinds of model stand behind it, our own Video LDM family and open weights through diffusers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from models.catalog import ModelCard

Frames = NDArray[np.uint8]  # (T, H, W, 3), sRGB, 0..255
Picture = NDArray[np.uint8]  # (H, W, 3), or (H, W, 4) with straight alpha; sRGB, 0..255

GenerationStage = Literal["encoding", "denoising", "interpolating", "decoding", "upscaling"]


ReferenceRole = Literal["subject", "style", "scene"]
Transition = Literal["cut", "continue"]
GuidanceSchedule = Literal["constant", "oscillating", "linear"]  # over steps, over frames


@dataclass(frozen=True, eq=False)
class Reference:
    """A picture of what the clip shall show, of any size."""

    picture: Picture
    name: str | None = None  # what the prompt calls it
    role: ReferenceRole = "subject"
    strength: float = 1.0  # 0..1, times the task's own


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A picture that a clip shows at one of its frames, in the clip's shape."""

    picture: Picture
    index: int  # 0..num_frames - 1


@dataclass(frozen=True, eq=False)
class Shot:
    """One shot of a story; what it leaves open is the task's."""

    prompt: str
    num_frames: int
    seed: int
    negative_prompt: str = ""
    first_frame: Picture | None = None
    last_frame: Picture | None = None
    references: tuple[Reference, ...] = ()
    transition: Transition = "continue"  # from the shot before


@dataclass(frozen=True, eq=False)
class Task:
    """One generation, fully resolved: every default filled in, every limit checked.

    Given frames and source clips have the result's aspect; the model scales them to its own size.
    """

    task_type: str
    prompt: str
    negative_prompt: str
    width: int  # pixels
    height: int  # pixels
    num_frames: int  # of the result: `extend` counts the clip too, `story` every shot
    fps: int  # frames per second of film time
    seed: int  # 0..2**63 - 1
    num_inference_steps: int
    guidance_scale: float  # 1 is unguided
    sampler: str
    first_frame: Picture | None = None
    last_frame: Picture | None = None
    first_frame_strength: float = 1.0  # 0..1
    last_frame_strength: float = 1.0  # share of denoising steps, from the noisiest, that see it
    references: tuple[Reference, ...] = ()
    reference_strength: float = 1.0  # 0..1
    video: Frames | None = None  # the clip to extend, edit, interpolate or upscale
    video_fps: float | None = None
    mask: Picture | None = None  # over the clip to edit: white is made anew, black stays
    keyframes: tuple[Keyframe, ...] = ()  # besides first and last frame
    extend_before: bool = False  # new frames lead up to the clip instead of following it
    shots: tuple[Shot, ...] = ()
    upscale_factor: int | None = None
    target_fps: int | None = None
    last_frame_is_sketch: bool = False  # a drawing of what the last frame shall show
    guidance_rescale: float = 0.0  # 0..1
    guidance_schedule: GuidanceSchedule = "constant"
    context_frames: int = 2  # 0..2 of what came before, as seen by what continues it
    context_guidance: float = 1.5  # 1..4, 1 is unguided
    reconstruction_weight: float | None = None  # given frames pull by gradient, untrained
    quality: str | None = None  # one of the card's; None is its first
    adapter: str | None = None  # one of the card's
    adapter_scale: float = 1.0  # 0..2, 0 is the base itself


@dataclass(frozen=True)
class Step:
    """Where a generation stands: `index` of `total` units of a stage are done.

    The units of a film of several clips are those of all clips together.
    """

    stage: GenerationStage
    index: int
    total: int
    shot: int = 0  # 0..shots - 1, the one that is being made
    shots: int = 1
    shot_done: float = 0.0  # 0..1 of that shot's units


OnStep = Callable[[Step], None]  # may raise to stop the generation; nothing stays dirty


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory is wanting. PyTorch's allocators have none in common with
    Python's, and that of main memory not even one of its own."""
    accelerator = type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or accelerator or "DefaultCPUAllocator" in str(error)


class LongPrompt(ValueError):
    """A prompt is longer than a model reads. The text holds both numbers, and no word of it."""


class Cancelled(Exception):
    """Raised out of an `on_step` callback to stop a generation at the next step."""


class VideoModel(Protocol):
    """A loaded model. Serves one task at a time; not thread-safe."""

    @property
    def card(self) -> ModelCard:
        """What the model can do."""
        ...

    @property
    def weights_sha256(self) -> str:
        """Hex digest over every weight file, in name order."""
        ...

    def generate(self, task: Task, on_step: OnStep) -> Frames:
        """Make the clip: for `extend` source and new frames together, for `story` all shots.

        on_step  called after every denoising step, and at each stage's start with index 0
        returns  (num_frames, height, width, 3) uint8
        raises   ValueError if the task is outside the card; whatever on_step raises
        """
        ...


@runtime_checkable
class StreamingModel(VideoModel, Protocol):
    """A model that hands over a film piece by piece, so that its length costs no memory."""

    def stream(self, task: Task, on_step: OnStep) -> Iterator[Frames]:
        """The film of `generate` in pieces (n, height, width, 3), in film order, none empty.

        raises ValueError at once if the task is outside the card; whatever on_step raises
        """
        ...


class Memory(Protocol):
    """What of a film is made already: all that another process needs to go on from there."""

    @property
    def steps(self) -> int:
        """Denoising steps that need not be made again."""
        ...

    def write(self) -> bytes:
        """All of it. Whole whenever `on_step` is called."""
        ...


@runtime_checkable
class ResumableModel(StreamingModel, Protocol):
    """A model whose films another process can go on with, and which come out the same."""

    def remember(self, identity: str, written: bytes | None = None) -> Memory:
        """A memory for one film, empty or as an earlier one was written.

        identity  names the task and the versions of what surrounds the model
        raises    ValueError if what was written is damaged, or of another film, model or device
        """
        ...

    def stream(self, task: Task, on_step: OnStep, memory: Memory | None = None) -> Iterator[Frames]:
        """As before; what `memory` holds of the film is not made again, and all that is made is
        noted in it before `on_step` is called."""
        ...


Maker = Callable[[ResumableModel], None]  # makes one film with the model that it is given


@runtime_checkable
class BatchableModel(ResumableModel, Protocol):
    """A model that makes several films at once for less than they cost one after the other."""

    def together(self, makers: Sequence[Maker]) -> None:
        """Call every maker on a thread of its own, with a model of its own for one film; return
        when all are over.

        Films of one shape and as many steps gain by it; any others are right as well. Each is the
        film that the model makes alone, to 1e-4 of a latent in float32, and begins, goes on from a
        memory, fails and is stopped by itself.

        raises what a maker raised, after all are over
        """
        ...
