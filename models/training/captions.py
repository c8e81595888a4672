"""From a clip's exact state to the sentence that describes it, plain or paraphrased."""

import random

from models.training.concepts import noun_phrase, spoken
from models.training.scenes import SCENES

# Unit steps in the picture, y downward.
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up and left": (-1, -1),
    "up and right": (1, -1),
    "down and left": (-1, 1),
    "down and right": (1, 1),
}

# What a subject does: a direction above, or one of these.
MANNERS: dict[str, tuple[str, ...]] = {
    "still": ("standing still", "not moving", "staying in place", "at rest"),
    "grow": ("growing", "getting bigger", "coming closer"),
    "shrink": ("shrinking", "getting smaller", "going away"),
    "turn": ("spinning", "turning around", "rotating"),
    "bounce": ("bouncing", "hopping", "jumping up and down"),
    "drop": ("falling", "dropping down from above"),
}

_PLAIN_SCENES = ("red", "green", "blue", "yellow", "white")

_NAMELESS = ("something", "a thing", "it", "the subject", "this one")

_OTHER_PHRASES: dict[str, tuple[str, ...]] = {
    "sky": ("in a blue sky", "across the sky with clouds"),
    "sunset": ("at sunset", "in front of an orange sunset"),
    "night": ("at night", "under the stars at night"),
    "sea": ("at the sea", "over the ocean"),
    "desert": ("over sand dunes in a desert", "over the desert"),
    "snow": ("on snow", "in winter snow"),
    "meadow": ("on a green meadow", "on the grass"),
    "forest": ("in the forest", "among trees"),
    "city": ("in the city", "in a city street"),
    "studio": ("in a photo studio", "in the studio"),
}


def caption(concept: str, motion: str, fast: bool, scene: str) -> str:
    """The exact sentence: "a unicorn moving left over a sunset".

    motion  a key of DIRECTIONS or MANNERS
    fast    said only of movement in a direction
    """
    action = MANNERS[motion][0] if motion in MANNERS else f"moving {motion}"
    if fast and motion in DIRECTIONS:
        action = f"moving fast {motion}"
    return f"{noun_phrase(concept)} {action} {_phrase(scene)}"


def still_caption(concept: str, scene: str) -> str:
    """The sentence for a single picture: "a unicorn over a sunset"."""
    return f"{noun_phrase(concept)} {_phrase(scene)}"


def paraphrase(concept: str, motion: str, fast: bool, scene: str, draw: random.Random) -> str:
    """The same truth in other words; parts are sometimes left out, never wrong."""
    subject = draw.choice((noun_phrase(concept), f"the {spoken(concept)}", spoken(concept)))
    return _told(subject, motion, fast, scene, draw)


def nameless(motion: str, fast: bool, scene: str, draw: random.Random) -> str:
    """The same, but what moves there is left to a picture: "something moving left"."""
    return _told(draw.choice(_NAMELESS), motion, fast, scene, draw)


def _told(subject: str, motion: str, fast: bool, scene: str, draw: random.Random) -> str:
    action = _action(motion, fast, draw)
    place = draw.choice((_phrase(scene), *_places(scene)))
    shape = draw.random()
    if shape < 0.15:
        return f"{place}, {subject} {action}"
    if shape < 0.25:
        return f"a video of {subject} {action} {place}"
    if shape < 0.30:
        return f"{subject} {action}"
    if shape < 0.35:
        return f"{subject} {place}"
    return f"{subject} {action} {place}"


def _action(motion: str, fast: bool, draw: random.Random) -> str:
    if motion in MANNERS:
        return draw.choice(MANNERS[motion])
    toward = draw.choice((motion, f"to the {motion}" if motion in ("left", "right") else motion))
    verb = draw.choice(("moving", "going", "travelling", "flying", "gliding"))
    pace = draw.choice(("fast ", "quickly ")) if fast else draw.choice(("", "", "slowly "))
    return f"{verb} {pace}{toward}"


def _phrase(scene: str) -> str:
    return next(entry.phrase for entry in SCENES if entry.name == scene)


def _places(scene: str) -> tuple[str, ...]:
    if scene in _PLAIN_SCENES:
        return (f"against a plain {scene} background", f"on {scene}")
    return _OTHER_PHRASES[scene]
