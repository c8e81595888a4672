"""A task as bytes, to be handed from one process to another. Never pickle.

Plain numbers and words are JSON in a safetensors header, pictures and clips are its tensors.
"""

import dataclasses
import json
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from models.protocol import Keyframe, Reference, Shot, Task

KINDS = {kind.__name__: kind for kind in (Task, Reference, Keyframe, Shot)}
HEADER = "task"  # the one entry of the file's metadata
SIZE_BYTES = 8  # before the header of a safetensors file


def wrap_up(task: Task) -> bytes:
    """All of a task, for `unwrap`."""
    arrays: dict[str, np.ndarray] = {}
    facts = _pack("task", task, arrays)
    return save(arrays, {HEADER: json.dumps(facts)})


def unwrap(data: bytes) -> Task:
    """What `wrap_up` was given."""
    size = int.from_bytes(data[:SIZE_BYTES], "little")
    metadata = json.loads(data[SIZE_BYTES : SIZE_BYTES + size])["__metadata__"]
    task = _unpack(json.loads(metadata[HEADER]), load(data))
    assert isinstance(task, Task)
    return task


def _pack(name: str, value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A value as JSON; its arrays go into `arrays`, by the path to them."""
    if isinstance(value, np.ndarray):
        arrays[name] = np.ascontiguousarray(value)
        return {"array": name}
    if dataclasses.is_dataclass(value):
        inner = {key: _pack(f"{name}.{key}", one, arrays) for key, one in vars(value).items()}
        return {type(value).__name__: inner}
    if isinstance(value, tuple):
        return [_pack(f"{name}.{at}", one, arrays) for at, one in enumerate(value)]
    return value


def _unpack(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """What `_pack` made JSON of."""
    if isinstance(value, list):
        return tuple(_unpack(one, arrays) for one in value)
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "array":
        return arrays[inner]
    return KINDS[kind](**{key: _unpack(one, arrays) for key, one in inner.items()})
