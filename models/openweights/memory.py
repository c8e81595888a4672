"""A checkpoint's parts on a device, as the plan for its memory says; see `models.openweights.plan`.

Weights of denoisers may be stored in eight bits, as floats here, as integers when they are loaded:
layers are widened while they work. That changes films a little, so it is never chosen here, only
asked for.
"""

from dataclasses import dataclass
from typing import Any

import torch

from models.openweights.plan import BLOCKS, PARTS, RELEASED, Plan, Sizes, choose
from models.openweights.progress import DENOISERS

TILED = ("enable_tiling", "enable_slicing")
TEXT_ENCODERS = "text_encoder"  # how their names begin
EXACT = Plan()  # all parts on the device
FLOAT8, INT8 = "float8", "int8"  # what may be asked for


@dataclass
class Place:
    """A pipeline, its siblings of the same parts, and the device they work on."""

    pipe: Any
    device: str
    plan: Plan = EXACT
    stored: str = ""  # FLOAT8 or INT8, if denoisers are stored so
    _hooked: Any = None

    def __str__(self) -> str:
        """What of it decides how numbers are rounded."""
        kinds = {str(part.dtype) for part in modules_of(self.pipe)}
        stored = f" {self.stored}" if self.stored else ""
        device = torch.device(self.device).type
        return f"{device} {sorted(kinds)}{stored}{' tiled' if self.plan.tiled else ''}"

    @property
    def offloaded(self) -> bool:
        """Whether whole parts come and go with each film."""
        return self.plan.place == PARTS

    def pipeline(self, sibling: str | None) -> Any:
        """The pipeline itself, or one of another class made of its parts; ready to be called."""
        pipe = self.pipe if sibling is None else related(self.pipe, sibling)
        if self.offloaded and (self._hooked is None or sibling or self._hooked is not pipe):
            pipe.enable_model_cpu_offload(device=self.device)
            self._hooked = pipe
        return pipe


def settle(pipe: Any, device: str, pixels: int, stored: str = "") -> Place:
    """Put a pipeline on its device, as the memory that is free there allows.

    pixels  width * height of its largest film
    stored  FLOAT8: store the denoisers so; INT8: they are stored so already
    """
    if stored == FLOAT8:
        for name in denoisers_of(pipe):
            getattr(pipe, name).enable_layerwise_casting(
                storage_dtype=torch.float8_e4m3fn, compute_dtype=getattr(pipe, name).dtype
            )
    plan = EXACT
    if device.startswith("cuda"):
        plan = choose(torch.cuda.mem_get_info(device)[0], sizes_of(pipe, pixels))
    return put(pipe, device, plan, stored)


def put(pipe: Any, device: str, plan: Plan, stored: str = "") -> Place:
    """Put a pipeline on a device as a plan says."""
    for name in TILED if plan.tiled else ():
        if hasattr(pipe.vae, name):
            getattr(pipe.vae, name)()
    if plan.place in (RELEASED, BLOCKS):
        visit(pipe, device, plan)
    elif plan.place != PARTS:
        pipe = pipe.to(device)
    return Place(pipe, device, plan, stored)


def visit(pipe: Any, device: str, plan: Plan) -> None:
    """Have text encoders, and denoisers if the plan says so, visit the device layer by layer and
    block by block; all other parts live there."""
    from diffusers.hooks import apply_group_offloading

    home, away = torch.device(device), torch.device("cpu")
    for name, part in pipe.components.items():
        if not isinstance(part, torch.nn.Module):
            continue
        if name.startswith(TEXT_ENCODERS):
            apply_group_offloading(part, home, away, offload_type="leaf_level")
        elif plan.place == BLOCKS and name in DENOISERS:
            apply_group_offloading(
                part, home, away, offload_type="block_level", num_blocks_per_group=1
            )
        else:
            part.to(home)


def sizes_of(pipe: Any, pixels: int) -> Sizes:
    """The sizes of a pipeline's parts as they are loaded."""
    kinds: dict[str, list[int]] = {"encoders": [], "denoisers": [], "others": []}
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            kind = "denoisers" if name in DENOISERS else "others"
            kinds["encoders" if name.startswith(TEXT_ENCODERS) else kind].append(bytes_of(part))
    blocks = [
        bytes_of(block)
        for name in denoisers_of(pipe)
        for blocks in getattr(pipe, name).children()
        if isinstance(blocks, torch.nn.ModuleList)
        for block in blocks
    ]
    sizes = {kind: tuple(found) for kind, found in kinds.items()}
    return Sizes(**sizes, block=max(blocks, default=0), pixels=pixels)


def bytes_of(part: torch.nn.Module) -> int:
    """Of a part's weights, as they are loaded."""
    return sum(stored_bytes(weight) for weight in part.parameters())


def stored_bytes(weight: Any) -> int:
    """Of one tensor. Of one that stands for others, as eight-bit integers and their scales, those
    count: it tells the number of elements and the type that it would be widened to."""
    if hasattr(weight, "__tensor_flatten__"):
        names, _ = weight.__tensor_flatten__()
        return sum(stored_bytes(getattr(weight, name)) for name in names)
    return int(weight.numel() * weight.element_size())


def denoisers_of(pipe: Any) -> list[str]:
    """The names of a pipeline's denoisers."""
    return [name for name in DENOISERS if getattr(pipe, name, None) is not None]


def modules_of(pipe: Any) -> list[Any]:
    """The networks among a pipeline's parts."""
    return [part for part in pipe.components.values() if hasattr(part, "named_parameters")]


def related(pipe: Any, name: str) -> Any:
    """A pipeline of another class, made of the same parts. Costs no memory."""
    import diffusers

    kind = getattr(diffusers, name)
    settings = {name: value for name, value in pipe.config.items() if not name.startswith("_")}
    plain = {name: value for name, value in settings.items() if name not in pipe.components}
    return kind(**pipe.components, **plain)
