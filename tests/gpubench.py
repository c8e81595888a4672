"""Measures the adapters of open weights on a CUDA machine: `make gpu`.

The report lands in `reports/gpu.json`: seconds a step, memory, FLOPs and utilisation of Wan's
shapes with random weights, beside plain diffusers in the same run. What a pass costs does not
depend on weights; how many blocks the step cache of the quality `fast` leaves out does, so that
figure is of random weights only, and stands beside one of the other means without the cache.
"""

import argparse
import gc
import itertools
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.catalog import read_card
from models.openweights.__main__ import add
from models.openweights.attention import AUTO, HUB, NATIVE, choose, fault, names, only_for
from models.openweights.families import Wishes
from models.openweights.memory import Place, put, sizes_of
from models.openweights.pipeline import OpenModel
from models.openweights.plan import GIB, WHOLE
from models.openweights.plan import choose as choose_plan
from models.openweights.regions import Compiler
from models.openweights.tiers import FAST, Means
from models.openweights.wan import WAN
from models.protocol import OnStep, Step
from tests.models.wilds import build, denoiser_of, wan, words
from tests.openbench import ROOT, Scale, plain, task_of, versions, write_report

REPORT = ROOT / "reports" / "gpu.json"
NO_GPU = 2  # exit status
TEXT, WORDS = 4096, 512  # numbers of a token of Wan's text encoder, and tokens
SIDE, RATE = 8, 4  # pixels and frames to a latent
STEPS = 4
SHAPES = {
    "wan-1.3b": Scale(30, 12, 128, 8960, "832x480", 81, STEPS),
    "wan-14b": Scale(40, 40, 128, 13824, "832x480", 81, STEPS),
}
SQUARE = 8192  # side of the matrices whose product tells what the card can do
REPEATS = 10

Way = Callable[[OnStep], object]


def main(arguments: list[str] | None = None) -> int:
    """Measure everything; returns the exit status."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", type=Path, default=REPORT)
    options.add_argument("--shape", action="append", choices=[*SHAPES], help="again: more")
    options.add_argument("--size", help="WxH of films")
    asked = options.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write("make gpu: needs a CUDA device, and PyTorch sees none here\n")
        return NO_GPU
    best = matmul_rate()
    shapes = {}
    for name in asked.shape or SHAPES:
        scale = SHAPES[name]
        shapes[name] = measure(replace(scale, size=asked.size) if asked.size else scale, best)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "memory_gib": round(torch.cuda.mem_get_info()[1] / GIB, 1),
        "matmul_tflops": round(best / 1e12, 1),
        "versions": versions(),
        "shapes": shapes,
    }
    write_report(report, asked.json)
    return 0


def measure(scale: Scale, best: float) -> dict[str, Any]:
    """All ways to make the same film, in turn; of a network that does not fit, what it needs.

    best  operations a second that a product of matrices reaches on this card
    """
    gc.collect()
    torch.cuda.empty_cache()
    pipe = random_pipe(scale)
    pixels = math.prod(map(int, scale.size.split("x")))
    sizes, free = sizes_of(pipe, pixels), torch.cuda.mem_get_info()[0]
    plan = choose_plan(free, sizes)
    told = {"scale": vars(scale), "parameters": parameters(pipe.transformer)}
    told |= {"weights_gib": round(sizes.held(WHOLE) / GIB, 2), "plan": plan.place}
    if plan.place != WHOLE:
        return told | {"skipped": f"{free / GIB:.1f} GiB are free"}
    model = model_of(put(pipe, "cuda", plan), scale)
    flops = 2 * pass_flops(scale)  # with guidance, of a step
    ways = {name: time_way(make, flops, best) for name, make in ways_of(model, scale)}
    return told | {"flops_a_step": flops, "ways": ways, "attention_s": kernels(pipe, scale)}


def random_pipe(scale: Scale) -> Any:
    """A pipeline of Wan's with random weights, in main memory but for the network, which is on the
    GPU and in bfloat16. The text encoder is tiny, the autoencoder is as published."""
    import diffusers
    import transformers

    parts = wan() | words(transformers.UMT5EncoderModel, transformers.UMT5Config, TEXT)
    parts["vae"] = diffusers.AutoencoderKLWan().eval()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            parts["transformer"] = denoiser_of(scale, TEXT)
    finally:
        torch.set_default_dtype(before)
    keep_wide(parts["transformer"])
    parts["text_encoder"].to(torch.bfloat16)
    return diffusers.WanPipeline(**parts)


def keep_wide(network: Any) -> None:
    """Have in float32 what is when weights are read from files in bfloat16."""
    for name, weight in network.named_parameters():
        if set(network._keep_in_fp32_modules or ()) & set(name.split(".")):
            weight.data = weight.data.float()


def model_of(place: Place, scale: Scale) -> OpenModel:
    """The pipeline behind the adapter, with the card that a checkpoint of Wan's gets."""
    with tempfile.TemporaryDirectory() as scratch:
        wishes = Wishes((scale.size,), scale.frames, scale.steps, 5.0, None)
        folder = Path(scratch)
        add("timed", build("wan-2.1", folder / "weights"), folder / "models", wishes, None)
        card = read_card(folder / "models" / "timed" / "card.json")
    return OpenModel(card, "random", WAN, place)


def ways_of(model: OpenModel, scale: Scale) -> Iterator[tuple[str, Way]]:
    """What is compared: each way takes whoever is told of steps, and makes the film."""
    pipe, task = model.place.pipe, task_of(model, scale)
    kernel = choose(AUTO, "cuda", pipe.transformer, masked=False)
    compiler = Compiler(strict=True)
    fast = replace(task, quality=FAST)

    def by_diffusers(on_step: OnStep) -> object:
        def end(_pipe: Any, index: int, _time: Any, _latents: Any) -> dict[str, Any]:
            on_step(Step("denoising", index + 1, task.num_inference_steps))
            return {}

        return plain(pipe, task, callback_on_step_end=end)

    def without_cache(means: Means) -> Way:
        def make(on_step: OnStep) -> object:
            with ExitStack() as stack:
                if means.attention != NATIVE:
                    stack.enter_context(only_for(pipe.transformer, means.attention))
                if means.compiler is not None:
                    stack.enter_context(means.compiler.over(pipe.transformer))
                return model.generate(task, on_step)

        return make

    def by_tier(means: Means) -> Way:
        quick = replace(model, means=means)
        return lambda on_step: quick.generate(fast, on_step)

    yield "plain", by_diffusers
    yield "exact", without_cache(Means())
    yield f"exact, {kernel}", without_cache(Means(kernel))
    yield f"exact, {kernel}, compiled", without_cache(Means(kernel, compiler))
    yield f"fast, {kernel}", by_tier(Means(kernel))
    yield f"fast, {kernel}, compiled", by_tier(Means(kernel, compiler))


@dataclass
class Clock:
    """When each step had ended on the GPU, and the memory that it took until frames are decoded."""

    ends: list[float] = field(default_factory=list)
    denoising_bytes: int | None = None

    def __call__(self, step: Step) -> None:
        torch.cuda.synchronize()
        if step.stage == "denoising":
            self.ends.append(time.perf_counter())
        if step.stage == "decoding" and step.index == 0:
            self.denoising_bytes = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()

    @property
    def step_s(self) -> float:
        """The middle one of all steps but the first."""
        gaps = [after - before for before, after in itertools.pairwise(self.ends)]
        return statistics.median(gaps[1:] or gaps)


def time_way(make: Way, flops: int, best: float) -> dict[str, Any]:
    """Make a film that wakes all up, compilers too, and then one that is measured."""
    began = time.perf_counter()
    make(Clock())
    first_s = time.perf_counter() - began
    torch.cuda.reset_peak_memory_stats()
    clock = Clock()
    began = time.perf_counter()
    make(clock)
    film_s = time.perf_counter() - began
    last = torch.cuda.max_memory_allocated()
    peaks = {
        "denoising": clock.denoising_bytes,
        "decoding" if clock.denoising_bytes else "all": last,
    }
    return {
        "step_s": round(clock.step_s, 4),
        "film_s": round(film_s, 2),
        "first_film_s": round(first_s, 2),
        "peak_gib": {name: round(peak / GIB, 2) for name, peak in peaks.items() if peak},
        "tflops": round(flops / clock.step_s / 1e12, 1),
        "utilisation": round(flops / clock.step_s / best, 3),
    }


def pass_flops(scale: Scale, text_dim: int = TEXT) -> int:
    """Floating-point operations of one pass of the network over a film, counted without a GPU: two
    for a multiplication and its addition, of matrix products, convolutions and attention.

    Where the step cache leaves blocks out fewer are made; utilisation then tells what it spares.
    """
    width, height = map(int, scale.size.split("x"))
    frames = (scale.frames - 1) // RATE + 1
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = denoiser_of(scale, text_dim)
        network(
            hidden_states=torch.empty(1, 16, frames, height // SIDE, width // SIDE),
            timestep=torch.empty(1, dtype=torch.int64),
            encoder_hidden_states=torch.empty(1, WORDS, text_dim),
        )
    return int(counter.get_total_flops())


def parameters(network: torch.nn.Module) -> int:
    """How many numbers a network has learnt."""
    return sum(weight.numel() for weight in network.parameters())


def tokens(scale: Scale) -> int:
    """What attention sees of a film."""
    width, height = map(int, scale.size.split("x"))
    return ((scale.frames - 1) // RATE + 1) * (width // SIDE // 2) * (height // SIDE // 2)


def matmul_rate() -> float:
    """Operations a second of a large product of matrices in bfloat16: what utilisation is of."""
    one, other = torch.randn(2, SQUARE, SQUARE, device="cuda", dtype=torch.bfloat16)
    return 2 * SQUARE**3 / seconds(lambda: one @ other)


def kernels(pipe: Any, scale: Scale) -> dict[str, Any]:
    """Seconds that each kernel on this machine takes for the attention of one block, or why not."""
    shape = (1, tokens(scale), scale.heads, scale.head_width)
    numbers = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    told: dict[str, Any] = {}
    for name in names():
        if name.endswith(HUB):
            continue
        reason = fault(name, "cuda", pipe.transformer, masked=False)
        told[name] = reason.partition("\n")[0][:200] or timed_kernel(name, numbers)
    return told


def timed_kernel(name: str, numbers: torch.Tensor) -> Any:
    """Seconds, or why it fails at this shape."""
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

    backend = AttentionBackendName(name)
    try:
        with torch.no_grad():
            return seconds(
                lambda: dispatch_attention_fn(numbers, numbers, numbers, backend=backend)
            )
    except RuntimeError as error:  # no memory, for one that writes all of it down
        torch.cuda.empty_cache()
        return str(error).partition("\n")[0][:200]


def seconds(make: Callable[[], object]) -> float:
    """Of one call, on the GPU; the first is not counted."""
    make()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(REPEATS):
        make()
    torch.cuda.synchronize()
    return round((time.perf_counter() - began) / REPEATS, 6)


if __name__ == "__main__":
    sys.exit(main())
