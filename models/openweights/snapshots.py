"""Where a clip's denoising stands, written down: latents, scheduler, generator. Never pickle.

A pipeline's loop keeps its state in the scheduler that it was given and in the generator; the
latents it hands from step to step. Whoever sets all three has the loop where it was.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

FORMAT = 3
HEADER = "clip"  # the one entry of the file's metadata
SIZE_BYTES = 8  # before the header of a safetensors file
PLAIN = (bool, int, float, str, type(None))

Made = tuple[Tensor, ...]


class Unwritable(TypeError):
    """A scheduler holds something that no file of ours can: its clips begin anew."""


@dataclass(frozen=True)
class Snapshot:
    """The state after a step of one loop, or of the last of several.

    step        1.., how many are done, of all loops together
    made        what each scheduler returned for it: latents, and what some want back with the next
    schedulers  their attributes; lists and tensors in them are never changed in place
    generator   state of the CPU generator
    ends        what the loops before ended with, by how many steps were done then
    """

    step: int
    made: tuple[Made, ...]
    schedulers: tuple[dict[str, Any], ...]
    generator: Tensor
    ends: dict[str, tuple[Made, ...]]


class FilmMemory:
    """The latest snapshot of each clip of a film; see `models.protocol.Memory`.

    What the clips before showed is decoded again from what they ended with.
    """

    def __init__(self, identity: str, clips: dict[str, Snapshot] | None = None) -> None:
        self._identity = identity
        self._clips = clips or {}
        self._at = "0"

    def turn_to(self, clip: int) -> None:
        """From now on it is this clip that is being made."""
        self._at = str(clip)

    @property
    def latest(self) -> Snapshot | None:
        """Of the clip that is being made."""
        return self._clips.get(self._at)

    @latest.setter
    def latest(self, snapshot: Snapshot) -> None:
        self._clips[self._at] = snapshot

    @property
    def steps(self) -> int:
        """Steps that need not be made again."""
        return sum(clip.step for clip in self._clips.values())

    def write(self) -> bytes:
        """All of it, for `read_snapshot`."""
        tensors: dict[str, Tensor] = {}
        facts: dict[str, Any] = {"format": FORMAT, "identity": self._identity}
        facts["clips"] = {
            at: {name: pack(f"{at}.{name}", value, tensors) for name, value in vars(clip).items()}
            for at, clip in self._clips.items()
        }
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return save(plain, {HEADER: json.dumps(facts)})


def read_snapshot(data: bytes, identity: str) -> FilmMemory:
    """What `FilmMemory.write` wrote. raises ValueError if it is damaged, or another clip's"""
    try:
        size = int.from_bytes(data[:SIZE_BYTES], "little")
        metadata = json.loads(data[SIZE_BYTES : SIZE_BYTES + size])["__metadata__"]
        facts = json.loads(metadata[HEADER])
        tensors = load(data)
        found = (facts["format"], facts["identity"])
        clips = {
            at: Snapshot(**{name: unpack(value, tensors) for name, value in clip.items()})
            for at, clip in facts["clips"].items()
        }
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a damaged checkpoint: {type(error).__name__}") from error
    if found != (FORMAT, identity):
        raise ValueError("a checkpoint of another film, model or version")
    return FilmMemory(identity, clips)


def pack(name: str, value: object, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON; its tensors go into `tensors`, by the path to them. raises Unwritable"""
    if isinstance(value, Tensor):
        # A view of its own: one storage under two names cannot be written.
        tensors[name] = value.detach().clone()
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        tensors[name] = torch.from_numpy(value.copy())
        return {"array": name}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list | tuple):
        items = [pack(f"{name}.{at}", item, tensors) for at, item in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: pack(f"{name}.{key}", v, tensors) for key, v in value.items()}}
    raise Unwritable(f"{name} is a {type(value).__name__}")


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What `pack` made JSON of."""
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    makers: dict[str, Callable[[], Any]] = {
        "tensor": lambda: tensors[inner],
        "array": lambda: tensors[inner].numpy(),
        "list": lambda: [unpack(item, tensors) for item in inner],
        "tuple": lambda: tuple(unpack(item, tensors) for item in inner),
        "dict": lambda: {key: unpack(item, tensors) for key, item in inner.items()},
    }
    return makers[kind]()


def state_of(scheduler: Any) -> dict[str, Any]:
    """The attributes that a step changes, and those it might; not the config, nor what is no data.

    raises Unwritable
    """
    state = {
        name: list(value) if isinstance(value, list) else value
        for name, value in vars(scheduler).items()
        if name != "_internal_dict" and not callable(value)
    }
    pack("", state, {})
    return state


def put_back(state: dict[str, Any], scheduler: Any, device: torch.device) -> None:
    """Give a scheduler its state back. Tensors go where the scheduler had one of that name, those
    that it makes during steps to `device`."""
    for name, value in state.items():
        held = getattr(scheduler, name, None)
        where = held.device if isinstance(held, Tensor) else device
        setattr(scheduler, name, moved(value, where))


def moved(value: Any, device: torch.device) -> Any:
    """A value with its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list):
        return [moved(item, device) for item in value]
    return value
