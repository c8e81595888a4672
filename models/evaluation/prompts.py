"""The frozen prompts of the evaluation: what is asked, and with which seed.

`prompts.json` of an edition's subjects, and `unseen.json` of those kept out of training, were drawn
once by `draw_prompts` and are not drawn again until an edition has other subjects: their seeds are
far from those of training, and no choice may be made after scores were seen.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from models.training.captions import DIRECTIONS, caption
from models.training.scenes import SCENES

PROMPTS = Path(__file__).parent / "prompts.json"
UNSEEN = Path(__file__).parent / "unseen.json"
MOTIONS = (*DIRECTIONS, "still")
FIRST_SEED = 7_000_000_000
FIRST_UNSEEN_SEED = 8_000_000_000


@dataclass(frozen=True)
class Prompt:
    """One clip to ask for, and the truth it is measured against."""

    text: str
    concept: str
    motion: str  # one of MOTIONS
    fast: bool  # said in the text; never of "still"
    scene: str
    seed: int


def read_prompts(path: Path = PROMPTS) -> tuple[Prompt, ...]:
    """The frozen list.

    raises ValueError if the file holds no such list
    """
    try:
        return tuple(Prompt(**row) for row in json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a list of prompts: {error}") from error


def write_prompts(prompts: Sequence[Prompt], path: Path) -> None:
    """Write a list that `read_prompts` reads back equal, one prompt a line."""
    lines = ",\n".join(json.dumps(asdict(prompt)) for prompt in prompts)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def draw_prompts(
    concepts: Sequence[str], count: int, seed: str, first_seed: int = FIRST_SEED
) -> tuple[Prompt, ...]:
    """Random prompts in which concepts, motions and scenes are each used equally often."""
    draw = random.Random(seed)
    subjects = _evenly(concepts, count, draw)
    motions = _evenly(MOTIONS, count, draw)
    scenes = _evenly([scene.name for scene in SCENES], count, draw)
    prompts = []
    for index, (concept, motion, scene) in enumerate(zip(subjects, motions, scenes, strict=True)):
        fast = motion in DIRECTIONS and draw.random() < 0.5
        text = caption(concept, motion, fast, scene)
        prompts.append(Prompt(text, concept, motion, fast, scene, first_seed + index))
    return tuple(prompts)


def _evenly(names: Sequence[str], count: int, draw: random.Random) -> list[str]:
    """A shuffled list in which no name stands twice more often than another."""
    chosen: list[str] = []
    while len(chosen) < count:
        chosen += draw.sample(list(names), min(len(names), count - len(chosen)))
    return chosen
