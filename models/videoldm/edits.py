"""Zero-shot edits of a clip through its two end frames.

PixelDance (arXiv:2311.10982), section 4.4: edited first and last frames and the words make the
clip anew. Where words alone are given, the end frames are renoised and denoised as pictures under
them, as SDEdit does (arXiv:2108.01073). The frames between are never looked at.
"""

from dataclasses import replace

import torch
from torch import Tensor

from models.protocol import Frames, Task
from models.videoldm.branches import tell
from models.videoldm.denoising import Course, denoise_function, sample
from models.videoldm.diffusion import addressed_noise, cosine_u, lambda_of, noised
from models.videoldm.given import encode_picture, encode_pixels, words_only
from models.videoldm.pictures import read_clip
from models.videoldm.reports import Reports
from models.videoldm.weights import Preset

EDIT_SIGMA = 0.7  # noise on the end frames: below it words change little, above it nothing stays


def edits_by_words(task: Task) -> bool:
    """Whether the task gives no edited frame, so that its words must make them."""
    return task.task_type == "edit" and task.first_frame is None and task.last_frame is None


def edit_steps(task: Task) -> int:
    """Denoising steps that making the end frames takes; 0 where they are given."""
    if not edits_by_words(task):
        return 0
    return max(1, round(task.num_inference_steps * _edit_top()))


def end_frames(
    preset: Preset, task: Task, video: Frames, course: Course, reports: Reports
) -> tuple[Tensor, Tensor]:
    """Latents (1, c, h, w) of the edited first and last frame.

    video    the clip to edit, at the film's rate
    reports  told of each of `edit_steps`
    """
    if edits_by_words(task):
        return _edited_by_words(preset, task, video, course, reports)
    first = encode_picture(preset, video[0] if task.first_frame is None else task.first_frame, task)
    last = encode_picture(preset, video[-1] if task.last_frame is None else task.last_frame, task)
    assert first is not None
    assert last is not None
    return first, last


@torch.no_grad()
def _edited_by_words(
    preset: Preset, task: Task, video: Frames, course: Course, reports: Reports
) -> tuple[Tensor, Tensor]:
    """Both end frames as pictures: one clip of two frames that do not see each other."""
    course = replace(course, steps=edit_steps(task), stage="edit", moving=False)
    sigmas = course.sigmas(_edit_top())
    ends = encode_pixels(preset, read_clip(video[[0, -1]], task.width, task.height))
    eps = addressed_noise(tuple(ends.shape[1:]), course.seed, stage=course.stage)
    x = noised(ends, eps[None].to(ends), float(sigmas[0]))
    told = words_only(preset, task, task.prompt, 2)
    dtype = next(preset.unet.parameters()).dtype
    branches = tell(told, preset.text([task.negative_prompt]), 0, dtype)
    denoise = denoise_function(preset.unet, branches, course, sigmas)
    on_state, state = reports.run(course.stage)
    edited = sample(denoise, x, sigmas, course, (), on_state, state)
    return edited[:, :, 0], edited[:, :, 1]


def _edit_top() -> float:
    """The schedule coordinate u of `EDIT_SIGMA`."""
    return float(cosine_u(lambda_of(EDIT_SIGMA)))
