"""Wan 2.1 and 2.2: text, first frame, first and last frame.

With two experts both take the request's scale. The 5B makes films of words or of a first frame
with the same parts; a last frame it would ignore, so its card does not offer it. Networks that see
given frames as latents only, the A14B's, may stop seeing the last one at any step.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from models.openweights.adapter import Adapter, Arguments, image_of
from models.openweights.progress import DENOISERS
from models.openweights.replay import wrapped
from models.protocol import Task

IMAGES = "WanImageToVideoPipeline"


def arguments(pipe: Any, task: Task) -> Arguments:
    """What the pipeline of this kind of task is called with."""
    given: Arguments = {}
    if task.first_frame is not None:
        given["image"] = image_of(task.first_frame, task)
    if task.last_frame is not None:
        given["last_image"] = image_of(task.last_frame, task)
    return given


def sibling(pipe: Any, kind: str) -> str | None:
    """The 5B's index names the pipeline for words; frames are for the other one."""
    return IMAGES if kind == "image" and type(pipe).__name__ != IMAGES else None


@contextmanager
def fading(pipe: Any, task: Task) -> Iterator[None]:
    """Have the last frame seen for the share of steps, from the noisiest, that its strength says.

    Given frames stand beside the noisy latents, in channels of their own; those are exchanged for
    what they are without a last frame.
    """
    if task.last_frame is None or task.last_frame_strength == 1:
        yield
        return
    seen = round(task.last_frame_strength * task.num_inference_steps)
    without = beside(pipe, task)

    def exchanged(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def forward(hidden_states: torch.Tensor, *more: Any, **named: Any) -> Any:
            done = int((pipe.scheduler.timesteps > pipe.current_timestep).sum())
            if done >= seen:
                noisy = hidden_states[:, : -without.shape[1]]
                hidden_states = torch.cat([noisy, without.to(hidden_states)], 1)
            return real(hidden_states, *more, **named)

        return forward

    with ExitStack() as stack:
        for name in DENOISERS:
            if getattr(pipe, name, None) is not None:
                stack.enter_context(wrapped(getattr(pipe, name), "forward", exchanged))
        yield


@torch.no_grad()
def beside(pipe: Any, task: Task) -> torch.Tensor:
    """Channels (1, c, t, h, w) of a job with a first frame only: a mask, and latents."""
    device, size = pipe._execution_device, {"height": task.height, "width": task.width}
    first = pipe.video_processor.preprocess(image_of(task.first_frame, task), **size)
    return pipe.prepare_latents(
        first.to(device, torch.float32),
        1,
        pipe.vae.config.z_dim,
        num_frames=task.num_frames,
        dtype=torch.float32,
        device=device,
        latents=torch.zeros(1),  # those of noise are not wanted
        **size,
    )[1]


WAN = Adapter(
    arguments,
    tokens=512,
    exact=("vae", "image_encoder"),
    sibling=sibling,
    during=fading,
    joined=(
        "hidden_states",
        "timestep",
        "encoder_hidden_states",
        "encoder_hidden_states_image",
    ),
)
