"""The training loop every stage shares: optimiser, warm-up and cool-down, EMA, log, resume.

Randomness is addressed by (seed, step), never streamed, so a resumed run draws what an
uninterrupted one would have drawn. Checkpoints are safetensors and JSON; there is no pickle.
"""

import csv
import json
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.training.muon import Muon, matrices_of


@dataclass(frozen=True)
class RunConfig:
    """One stage's optimisation."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 200  # steps
    cooldown: float = 0.25  # share of the steps at the end over which the rate falls to zero
    weight_decay: float = 0.01
    gradient_clip: float = 1.0  # norm
    ema_decay: float = 0.999
    seed: int = 0
    save_every_s: float = 120.0
    preview_every_s: float = 300.0


@dataclass(frozen=True)
class Draws:
    """The random sources of one step."""

    python: random.Random
    torch: torch.Generator


Batch = TypeVar("Batch")
Module = TypeVar("Module", bound=nn.Module)
Loss = Callable[[int, Draws], dict[str, Tensor]]  # must hold "loss"; the rest is logged
Preview = Callable[[Path], None]


class Ahead(Generic[Batch]):
    """Makes the batch of the next step in a thread while the present step computes elsewhere.

    Not where both would share the processor's cores: two sets of threads wait on each other there,
    and a step takes a third longer than the two in turn (measured on two cores).
    """

    def __init__(
        self, make: Callable[[Draws], Batch], seed: int = 0, threaded: bool | None = None
    ) -> None:
        self._make, self._seed = make, seed
        self._threaded = torch.cuda.is_available() if threaded is None else threaded
        self._pool = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Batch]] | None = None

    def take(self, step: int) -> Batch:
        """The batch of this step; begins the one after it."""
        if not self._threaded:
            return self._make(draws(self._seed, step))
        if self._next is None or self._next[0] != step:
            self._next = (step, self._start(step))
        batch = self._next[1].result()
        self._next = (step + 1, self._start(step + 1))
        return batch

    def _start(self, step: int) -> Future[Batch]:
        return self._pool.submit(self._make, draws(self._seed, step))


class Averages:
    """Exponential moving averages of the trainable parameters."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {
            name: parameter.detach().clone() for name, parameter in module.named_parameters()
        }

    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's present parameters; faster in the first steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                self.shadow[name].lerp_(parameter, 1 - decay)

    def swap(self, module: nn.Module) -> None:
        """Exchange averages and present parameters; calling it twice restores both."""
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                present = parameter.detach().clone()
                parameter.copy_(self.shadow[name])
                self.shadow[name].copy_(present)


def draws(seed: int, step: int, device: str = "cpu") -> Draws:
    """The random sources of a step; the same for the same (seed, step)."""
    python = random.Random(f"{seed}:{step}")
    generator = torch.Generator(device).manual_seed(python.getrandbits(62))
    return Draws(python, generator)


def has_bf16(device: str) -> bool:
    """Whether bf16 is faster than float32 there; without hardware support it is far slower."""
    return device == "cuda" or bool(torch.cpu._is_avx512_bf16_supported())


def attention(device: str) -> list[SDPBackend]:
    """Kernels to train with: on CPUs the fused one's backward pass is ten times slower in bf16."""
    if device == "cuda":
        return [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return [SDPBackend.MATH]


def rate(step: int, config: RunConfig) -> float:
    """The learning rate: linear warm-up, constant, linear fall to zero at the end."""
    cooldown = max(1, round(config.steps * config.cooldown))
    rise = min(1.0, (step + 1) / max(1, config.warmup))
    fall = min(1.0, (config.steps - step) / cooldown)
    return config.learning_rate * rise * fall


class Run:
    """A stage in a folder: `state.json`, `weights`, `average`, `moments`, `log.csv`, previews."""

    def __init__(
        self, folder: Path, module: nn.Module, config: RunConfig, device: str = "cpu"
    ) -> None:
        self.folder, self.module, self.config, self.device = folder, module, config, device
        self.trainable = [p for p in module.parameters() if p.requires_grad]
        matrices = matrices_of(module)
        chosen = {id(parameter) for parameter in matrices}
        others = [p for p in self.trainable if id(p) not in chosen]
        self.optimiser = Muon(
            matrices,
            others,
            config.learning_rate,
            config.weight_decay,
            dtype=torch.bfloat16 if has_bf16(device) else torch.float32,
        )
        self.averages = Averages(module, config.ema_decay)
        self.step, self.seconds = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.json").exists():
            self._resume()

    def train(self, loss: Loss, preview: Preview | None = None) -> None:
        """Train up to `config.steps`, saving on the way and at the end."""
        saved = previewed = time.monotonic()
        while self.step < self.config.steps:
            began = time.monotonic()
            values = self._step(loss)
            now = time.monotonic()
            self.seconds += now - began
            if self.step % 20 == 0:
                self._log(values)
            if now - saved > self.config.save_every_s:
                self.save()
                saved = now
            if preview and now - previewed > self.config.preview_every_s:
                self._preview(preview)
                previewed = now
        self.save()
        if preview:
            self._preview(preview)

    def _step(self, loss: Loss) -> dict[str, Tensor]:
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.step, self.config)
        self.optimiser.zero_grad(set_to_none=True)
        with sdpa_kernel(attention(self.device)):
            with torch.autocast(self.device, torch.bfloat16, enabled=has_bf16(self.device)):
                values = loss(self.step, draws(self.config.seed, self.step, self.device))
            values["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.trainable, self.config.gradient_clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"step {self.step}: gradient norm is {norm.item()}")
        self.optimiser.step()
        self.averages.update(self.module, self.step)
        self.step += 1
        return values | {"gradient_norm": norm}

    def _log(self, values: dict[str, Tensor]) -> None:
        row = {"step": self.step, "seconds": round(self.seconds, 1)}
        row |= {name: round(float(value.detach()), 5) for name, value in values.items()}
        path = self.folder / "log.csv"
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if fresh:
                writer.writeheader()
            writer.writerow(row)

    def _preview(self, preview: Preview) -> None:
        self.averages.swap(self.module)
        self.module.eval()
        with torch.no_grad():
            preview(self.folder / f"preview-{self.step:06}.png")
        self.module.train()
        self.averages.swap(self.module)

    def save(self) -> None:
        """Write everything a resume needs; each file is renamed into place, the state last."""
        _write(self.module.state_dict(), self.folder / "weights.safetensors")
        _write(self.averages.shadow, self.folder / "average.safetensors")
        moments = {}
        for index, parameter in enumerate(self.trainable):
            for name, value in self.optimiser.state.get(parameter, {}).items():
                moments[f"{index}.{name}"] = value
        _write(moments, self.folder / "moments.safetensors")
        state = {"step": self.step, "seconds": self.seconds, "config": asdict(self.config)}
        partial = self.folder / "state.json.partial"
        partial.write_text(json.dumps(state), encoding="utf-8")
        os.replace(partial, self.folder / "state.json")

    def _resume(self) -> None:
        state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        self.step, self.seconds = state["step"], state["seconds"]
        self.module.load_state_dict(load_file(self.folder / "weights.safetensors"))
        self.averages.shadow = {
            name: value.to(self.device)
            for name, value in load_file(self.folder / "average.safetensors").items()
        }
        for key, value in load_file(self.folder / "moments.safetensors").items():
            index, name = key.split(".", 1)
            parameter = self.trainable[int(index)]
            self.optimiser.state[parameter][name] = (
                value if name == "step" else value.to(self.device)
            )


def channels_last(module: Module) -> Module:
    """The module with its convolutions' weights laid out as CPUs and GPUs like them best."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module


def averaged(folder: Path) -> dict[str, Tensor]:
    """The state of a finished or running stage with averaged parameters."""
    return load_file(folder / "weights.safetensors") | load_file(folder / "average.safetensors")


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, partial
    )
    os.replace(partial, path)
