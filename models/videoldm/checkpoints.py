"""What of a film is drawn already, written down so that another process can go on from there.

A film is a row of denoising runs, each at its own address: `base/2` is the third clip's. Noise is
addressed, so a run's sampler state is all that it would lose, and of a finished run the latents.
Whoever makes the same film again passes through all of its runs, and those that are finished cost
nothing. Safetensors with a JSON header, never pickle. When to write, and where to, is the caller's.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from models.protocol import Memory
from models.videoldm.samplers import OnStep, SamplerState

FORMAT = 1
HEADER = "film"  # the one entry of the file's metadata
SIZE_BYTES = 8  # before the header of a safetensors file


class FilmMemory:
    """The denoising runs of one film, by address: finished ones and the one that is under way."""

    def __init__(self, identity: str, runs: Mapping[str, SamplerState]) -> None:
        self._identity = identity
        self._runs = dict(runs)

    @property
    def steps(self) -> int:
        """Steps of all runs together."""
        return sum(run.step for run in self._runs.values())

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those of all runs, finished or not."""
        return tuple(self._runs)

    def find(self, address: str) -> SamplerState | None:
        """Where the run at this address stands; None if it has not begun."""
        return self._runs.get(address)

    def note(self, address: str, state: SamplerState) -> None:
        """The run at this address has come to this state."""
        if address not in self._runs:  # the others are finished: they need no accelerator
            self._runs = {name: run.on("cpu") for name, run in self._runs.items()}
        self._runs[address] = state

    def write(self) -> bytes:
        """All of it, for `read_memory`."""
        runs = {name: {"step": run.step, "sigma": run.sigma} for name, run in self._runs.items()}
        header = {"format": FORMAT, "identity": self._identity, "runs": runs}
        tensors: dict[str, Tensor] = {}
        for name, run in self._runs.items():
            tensors[f"{name}.x"] = run.x
            if run.x0 is not None:
                tensors[f"{name}.x0"] = run.x0
        plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        return save(plain, {HEADER: json.dumps(header)})


class NoMemory(FilmMemory):
    """Of a film that nobody will resume: keeps nothing."""

    def note(self, address: str, state: SamplerState) -> None:
        """Forget it."""


NO_MEMORY = NoMemory("", {})


def read_memory(data: bytes, identity: str) -> FilmMemory:
    """What `FilmMemory.write` wrote.

    identity  of the task and of everything that its film depends on
    raises    ValueError if the bytes are damaged, or another film's
    """
    try:
        header = read_header(data)
        tensors = load(data)
        runs = {name: _read_run(name, run, tensors) for name, run in header["runs"].items()}
        found = (header["format"], header["identity"])
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a damaged checkpoint: {type(error).__name__}") from error
    if found != (FORMAT, identity):
        raise ValueError("a checkpoint of another film, model or version")
    return FilmMemory(identity, runs)


def read_header(data: bytes) -> dict[str, Any]:
    """Our part of a safetensors header. raises ValueError, KeyError or TypeError if damaged"""
    size = int.from_bytes(data[:SIZE_BYTES], "little")
    metadata = json.loads(data[SIZE_BYTES : SIZE_BYTES + size])["__metadata__"]
    header: dict[str, Any] = json.loads(metadata[HEADER])
    return header


def own(memory: Memory | None) -> FilmMemory:
    """The memory that a caller hands back; none is one that keeps nothing.

    raises TypeError for a memory of another kind of model
    """
    if memory is None:
        return NO_MEMORY
    if not isinstance(memory, FilmMemory):
        raise TypeError(f"a memory of this family, not {type(memory).__name__}")
    return memory


def remembered(
    memory: FilmMemory, address: str, report: Callable[[], None]
) -> tuple[OnStep, SamplerState | None]:
    """What a run needs to be remembered, and where it stood.

    report  called once for every step, those that were done before at once
    """
    state = memory.find(address)
    for _ in range(0 if state is None else state.step):
        report()

    def on_step(now: SamplerState) -> None:
        memory.note(address, now)
        report()

    return on_step, state


def _read_run(name: str, run: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SamplerState:
    return SamplerState(run["step"], tensors[f"{name}.x"], tensors.get(f"{name}.x0"), run["sigma"])
