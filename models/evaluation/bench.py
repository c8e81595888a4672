"""What every measure works with: the model, its base alone, known clips, and what recognises.

Worlds, checkers and clips are made when first asked for: a probe of one measure pays for no other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

from models.evaluation.gallery import Gallery, GalleryConfig, open_gallery
from models.evaluation.prompts import Prompt, read_prompts
from models.evaluation.sheet import Strip
from models.protocol import Frames, Step, Task, VideoModel
from models.training.concepts import FIRST_EDITION
from models.training.sprites import open_sheet
from models.training.world import World
from models.videoldm.autoencoder import Autoencoder
from models.videoldm.pipeline import VideoLDM
from models.videoldm.staged import StagedLDM

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
    ) -> None:
        self.model, self.on_clip = model, on_clip
        self.count, self.ungated = count, ungated
        self.prompts = tuple(read_prompts() if prompts is None else prompts)
        self.strips: list[Strip] = []  # of the contact sheet, in the order of the prompts
        self._texts: dict[tuple[str, int], Frames] = {}

    @cached_property
    def world(self) -> World:
        """The world that training drew from."""
        return World(open_sheet())

    @cached_property
    def gallery(self) -> Gallery:
        """What subjects and scenes look like, through this model's autoencoder too."""
        return open_gallery(self.world.sheet, GalleryConfig(FIRST_EDITION), self.autoencoder)

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

    def watched(self, what: str, items: Sequence[Item]) -> Iterator[Item]:
        """The items, told of as each is done with."""
        for done, item in enumerate(items, start=1):
            yield item
            self.on_clip(what, done, len(items))

    def task(self, prompt: Prompt, **changes: Any) -> Task:
        """A task of one clip of the base, with its card's defaults but for the changes."""
        return replace(self.resized(task_of(self.base, prompt)), **changes)

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
        task = self.task(prompt, task_type="text")
        key = (prompt.text, prompt.seed)
        if key not in self._texts:
            self._texts[key] = self.film(task)
        return self._texts[key]


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
