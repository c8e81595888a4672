"""The one door to every video model: what goes in, what is told on the way, what comes out.

Two kinds of model stand behind it, our own Video LDM family and open weights through diffusers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from models.catalog import ModelCard

Frames = NDArray[np.uint8]  # (T, H, W, 3), sRGB, 0..255

GenerationStage = Literal["encoding", "denoising", "decoding"]


@dataclass(frozen=True)
class Task:
    """One generation, fully resolved: every default filled in, every limit checked."""

    task_type: str
    prompt: str
    negative_prompt: str
    width: int  # pixels
    height: int  # pixels
    num_frames: int
    fps: int  # frames per second of film time
    seed: int  # 0..2**63 - 1
    num_inference_steps: int
    guidance_scale: float  # 1 is unguided
    sampler: str


@dataclass(frozen=True)
class Step:
    """Where a generation stands: `index` of `total` units of a stage are done."""

    stage: GenerationStage
    index: int
    total: int


OnStep = Callable[[Step], None]  # may raise to stop the generation; nothing stays dirty


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
        """Make the clip.

        on_step  called after every denoising step, and at each stage's start with index 0
        returns  (num_frames, height, width, 3) uint8
        raises   ValueError if the task is outside the card; whatever on_step raises
        """
        ...
