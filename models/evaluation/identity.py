"""Whether a clip shows the very subject of a reference, for subjects that were never trained.

Crops are found and described as the checker does, under the map that tells trained subjects apart.
Before anything is scored, rendered clips of each subject must find their own reference among all.
"""

import random
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from models.evaluation.bench import Bench
from models.evaluation.checker import SIDE, look
from models.evaluation.features import description
from models.evaluation.gallery import Gallery
from models.evaluation.prompts import Prompt
from models.evaluation.scores import mean
from models.evaluation.suite import GATE, GateError
from models.evaluation.truth import state_of
from models.protocol import Frames, Reference
from models.training.world import Script
from models.videoldm.pictures import write_frames

NAMES = ("reference_cosine_gain",)
COUNT = 24


def reference_gain(bench: Bench) -> dict[str, Any]:
    """Cosine of generated to reference crops, minus that of the same words and seed without it.

    Control: the same towards another subject's reference, which must gain nothing.

    raises GateError if known clips do not find their references, unless ungated
    """
    prompts = bench.counted(bench.unseen, COUNT)
    targets, known = [], []
    for prompt in bench.watched("references", prompts):
        targets.append(placed(bench.gallery, reference_clip(bench, prompt)))
        known.append(placed(bench.gallery, bench.shown(prompt)))
    gate = separation(torch.stack(known), torch.stack(targets))
    if gate["found"] < GATE and not bench.ungated:
        raise GateError(f"references are found by {gate['found']:.3f} of real clips: {GATE} needed")
    gains, others, with_it, without = [], [], [], []
    for index, prompt in enumerate(bench.watched("with reference", prompts)):
        picture = reference_clip(bench, prompt)[8]
        task = bench.task(prompt, task_type="reference", references=(Reference(picture),))
        made = placed(bench.gallery, bench.film(task))
        plain = placed(bench.gallery, bench.text_clip(prompt))
        with_it.append(float(made @ targets[index]))
        without.append(float(plain @ targets[index]))
        gains.append(with_it[-1] - without[-1])
        others.append(float((made - plain) @ targets[index - 1]))
    row = asdict(mean(gains, others))
    more = {"with": fmean(with_it), "without": fmean(without), "gate": gate}
    return {"reference_cosine_gain": row | more}


def reference_clip(bench: Bench, prompt: Prompt) -> Frames:
    """The prompt's subject, standing large before white: (16, H, W, 3)."""
    world, subject = bench.other_world, state_of(bench.other_world, prompt).subject
    draw = random.Random(f"reference:{prompt.seed}")
    state = world.sample(draw, Script(prompt.concept, "still", False, "white"))
    actor = replace(state.subject, sprite=subject.sprite, mirrored=subject.mirrored, size=0.6)
    still = replace(state, actors=(actor,), pan=(0.0, 0.0))
    return write_frames(world.render([still], torch.arange(16)[None] / 8, SIDE))


def placed(gallery: Gallery, frames: Frames) -> Tensor:
    """Where a clip's subject lies among subjects: a unit vector (k,)."""
    clip = rearrange(torch.from_numpy(frames).float() / 255, "t h w c -> t c h w")
    if clip.shape[-2:] != (SIDE, SIDE):
        clip = functional.interpolate(clip, (SIDE, SIDE), mode="area")
    views = look(gallery.finder, rearrange(clip, "t c h w -> c t h w"), 8)
    seen = description(gallery.network, views.crops)
    map_ = gallery.subjects
    return functional.normalize(((seen - map_.origin) @ map_.axes).mean(0), dim=0)


def separation(known: Tensor, targets: Tensor) -> dict[str, float]:
    """How clips and references (n, k) of the same order tell their pairs from all others.

    found   share of clips whose own reference is the nearest
    same    mean cosine of pairs; `other` of all the rest
    """
    cosines = known @ targets.T
    n = len(cosines)
    own = cosines.diagonal()
    others = (cosines.sum() - own.sum()) / max(1, n * (n - 1))
    found = (cosines.argmax(1) == torch.arange(n)).float().mean()
    return {"found": float(found), "same": float(own.mean()), "other": float(others)}
