"""What every measure works with: the model, its base alone, known clips, and what recognises.

Worlds, checkers and clips are made when first asked for: a probe of one measure pays for no other.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import torch

from models.evaluation.gallery import Gallery, GalleryConfig, open_gallery
from models.evaluation.prompts import UNSEEN, Prompt, read_prompts
from models.evaluation.sheet import Strip
from models.evaluation.truth import state_of
from models.protocol import Frames, Step, Task, VideoModel
from models.training.concepts import EDITION
from models.training.scenes import paint_bank
from models.training.sprites import open_sheet
from models.training.world import World
from models.videoldm.autoencoder import Autoencoder
from models.videoldm.pictures import write_frames
from models.videoldm.pipeline import VideoLDM
from models.videoldm.staged import StagedLDM

GIVEN_BANK_SEED = 2  # of the textures behind given pictures; training has 0, the gallery 1

OnClip = Callable[[str, int, int], None]  # (what, done, of)

Item = TypeVar("Item")


class Bench:
    """A model under measurement.

    count    clips of a measure; None leaves each its own number
    ungated  score even what a checker misreads
    """

    def __init__(
        self,
        model: VideoModel,
        on_clip: OnClip,
        count: int | None = None,
        ungated: bool = False,
        prompts: Sequence[Prompt] | None = None,
        unseen: Sequence[Prompt] | None = None,
    ) -> None:
        self.model, self.on_clip = model, on_clip
        self.count, self.ungated = count, ungated
        self.prompts = tuple(read_prompts() if prompts is None else prompts)
        self.unseen = tuple(read_prompts(UNSEEN) if unseen is None else unseen)
        self.strips: list[Strip] = []  # of the contact sheet, in the order of the prompts
        self._clips: dict[tuple[str, str, int], Frames] = {}

    @cached_property
    def world(self) -> World:
        """The world that training drew from."""
        return World(open_sheet())

    @cached_property
    def other_world(self) -> World:
        """The same subjects before backgrounds that training never saw, for given pictures."""
        other = copy(self.world)
        other.bank = paint_bank(GIVEN_BANK_SEED)
        return other

    @cached_property
    def gallery(self) -> Gallery:
        """What subjects and scenes look like, through this model's autoencoder too."""
        return open_gallery(self.world.sheet, GalleryConfig(EDITION), self.autoencoder)

    @cached_property
    def base(self) -> VideoModel:
        """The model without the stages after its base."""
        return self.model.base if isinstance(self.model, StagedLDM) else self.model

    @property
    def autoencoder(self) -> Autoencoder | None:
        """That of the model's frames, if the model is of our own family."""
        return self.base.preset.autoencoder if isinstance(self.base, VideoLDM) else None

    def counted(self, items: Sequence[Item], default: int) -> Sequence[Item]:
        """As many as are asked for, or as there are."""
        return items[: self.count or default]

    @property
    def mixed(self) -> tuple[Prompt, ...]:
        """Prompts of unseen and of trained subjects in turn."""
        pairs = zip(self.unseen, self.prompts, strict=False)
        return tuple(prompt for pair in pairs for prompt in pair)

    def shown(self, prompt: Prompt) -> Frames:
        """What the prompt says, rendered at the size, length and rate of the base's clips."""
        task = self.task(prompt)
        clock = torch.arange(task.num_frames)[None] / task.fps
        clip = self.other_world.render([state_of(self.other_world, prompt)], clock, task.width)
        return write_frames(clip)

    def watched(self, what: str, items: Sequence[Item]) -> Iterator[Item]:
        """The items, told of as each is done with."""
        for done, item in enumerate(items, start=1):
            yield item
            self.on_clip(what, done, len(items))

    def task(self, prompt: Prompt, **changes: Any) -> Task:
        """A task of one clip of the base, with its card's defaults but for the changes."""
        task = self.resized(task_of(self.base, prompt))
        card = self.base.card.for_kind(changes.get("task_type", task.task_type))
        return replace(task, **{"guidance_scale": card.guidance.default} | changes)

    def resized(self, task: Task) -> Task:
        """A base's clip lasts as long as the whole model's, at the rate of the base."""
        whole = self.model.card
        wish = whole.default_frames * task.fps / whole.fps[0]
        return replace(task, num_frames=self.base.card.frames.nearest(wish))

    def film(self, task: Task) -> Frames:
        """What the base makes of a task."""
        return self.base.generate(task, ignore)

    def default_clip(self, prompt: Prompt) -> Frames:
        """What a bare request for this prompt gets from the whole model."""
        if self.model is self.base:
            return self.text_clip(prompt)
        return self.model.generate(task_of(self.model, prompt), ignore)

    def text_clip(self, prompt: Prompt) -> Frames:
        """The base's clip from words alone, made once for all measures."""
        return self._once(prompt, self.task(prompt, task_type="text"))

    def begun_clip(self, prompt: Prompt) -> Frames:
        """The base's clip from what the prompt shows at first, made once for all measures."""
        first = self.shown(prompt)[0]
        return self._once(prompt, self.task(prompt, task_type="image", first_frame=first))

    def _once(self, prompt: Prompt, task: Task) -> Frames:
        key = (task.task_type, prompt.text, prompt.seed)
        if key not in self._clips:
            self._clips[key] = self.film(task)
        return self._clips[key]


def task_of(model: VideoModel, prompt: Prompt) -> Task:
    """The task a bare request for this prompt would become."""
    card = model.card
    width, height = (int(side) for side in card.sizes[0].split("x"))
    return Task(
        task_type="text",
        prompt=prompt.text,
        negative_prompt="",
        width=width,
        height=height,
        num_frames=card.default_frames,
        fps=card.fps[0],
        seed=prompt.seed,
        num_inference_steps=round(card.steps.default),
        guidance_scale=card.guidance.default,
        sampler=card.samplers[0],
    )


def ignore(step: Step) -> None:
    """Nobody watches the steps of a measured clip."""
    del step
