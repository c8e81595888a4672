"""Where a checkpoint's parts are: all on the device, or one after the other if they do not fit."""

from dataclasses import dataclass
from typing import Any

import torch

SPARE = 1.35  # of the weights: what must be free for them and for a clip's activations
TILED = ("enable_tiling", "enable_slicing")


@dataclass
class Place:
    """A pipeline, its siblings of the same parts, and the device they work on."""

    pipe: Any
    device: str
    offloaded: bool = False
    _hooked: Any = None

    def __str__(self) -> str:
        """What of it decides how numbers are rounded."""
        kinds = {str(part.dtype) for part in modules_of(self.pipe)}
        return f"{self.device} {sorted(kinds)}"

    def pipeline(self, sibling: str | None) -> Any:
        """The pipeline itself, or one of another class made of its parts; ready to be called."""
        pipe = self.pipe if sibling is None else related(self.pipe, sibling)
        if self.offloaded and (self._hooked is None or sibling or self._hooked is not pipe):
            pipe.enable_model_cpu_offload(device=self.device)
            self._hooked = pipe
        return pipe


def settle(pipe: Any, device: str) -> Place:
    """Put a pipeline on its device; without the memory for all of it, each part when it works.

    One means is taken at a time: several together are known to fail.
    """
    if not device.startswith("cuda"):
        return Place(pipe.to(device), device)
    if weight_bytes(pipe) * SPARE <= torch.cuda.mem_get_info(device)[0]:
        return Place(pipe.to(device), device)
    for name in TILED:
        if hasattr(pipe.vae, name):
            getattr(pipe.vae, name)()
    return Place(pipe, device, offloaded=True)


def weight_bytes(pipe: Any) -> int:
    """Of all parts, as they are loaded."""
    weights = (w for module in modules_of(pipe) for w in module.parameters())
    return sum(w.numel() * w.element_size() for w in weights)


def modules_of(pipe: Any) -> list[Any]:
    """The networks among a pipeline's parts."""
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def related(pipe: Any, name: str) -> Any:
    """A pipeline of another class, made of the same parts. Costs no memory."""
    import diffusers

    kind = getattr(diffusers, name)
    settings = {name: value for name, value in pipe.config.items() if not name.startswith("_")}
    plain = {name: value for name, value in settings.items() if name not in pipe.components}
    return kind(**pipe.components, **plain)
