"""The quality `fast`: another kernel for attention, compiled blocks; nothing of them is left."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models import attention_dispatch

from models.openweights.__main__ import add
from models.openweights.attention import choose, names, only_for
from models.openweights.families import Wishes
from models.openweights.loading import means_of
from models.openweights.memory import FLOAT8, Place
from models.openweights.pipeline import OpenModel
from models.openweights.plan import Plan
from models.openweights.regions import Compiler, repeated
from models.openweights.tiers import Means
from models.protocol import Cancelled, Step, Task
from models.registry import load_model
from tests.models.wilds import FRAMES, LENGTHS, build

# Of diffusers' own making: a scheduler hands a tensor to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PLAIN, MATH = "native", "_native_math"


@pytest.fixture(scope="module", params=["wan-2.1", "ltx"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenModel:
    return load(request.param, tmp_path_factory.mktemp("speed"), "cpu", attention=MATH)


def load(name: str, folder: Path, device: str, **options: str) -> OpenModel:
    wishes = Wishes(("32x32",), LENGTHS.get(name, FRAMES), 4, 3.0, None)
    add("wild", build(name, folder / "weights"), folder / "models", wishes, None)
    loaded = load_model("wild", folder / "models" / "wild", device, "float32", **options)
    assert isinstance(loaded, OpenModel)
    return loaded


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> OpenModel:
    return load("wan-2.1", tmp_path_factory.mktemp("wan"), "cpu")


def silent(step: Step) -> None:
    """Nobody asks."""


def task_of(model: OpenModel, quality: str | None) -> Task:
    card = model.card
    rate, frames = card.fps[0], card.default_frames
    task = Task("text", "a red fox", "rain", 32, 32, frames, rate, 7, 4, 3.0, "native")
    return replace(task, quality=quality)


def draw(model: OpenModel, quality: str | None = None) -> np.ndarray:
    return model.draw(task_of(model, quality), silent)


def state(model: OpenModel) -> tuple[str, list[Any], list[Any]]:
    """What a fast film could leave behind: of the process, of processors, of blocks."""
    network = model.place.pipe.transformer
    processors = [
        part.processor._attention_backend
        for part in network.modules()
        if hasattr(getattr(part, "processor", None), "_attention_backend")
    ]
    forwards = [block.forward for block in repeated(network)]
    assert processors
    assert forwards
    active, _ = attention_dispatch._AttentionBackendRegistry.get_active_backend()
    return str(active.value), processors, forwards


def test_a_kernel_is_of_the_fast_film_alone(model: OpenModel) -> None:
    exact, before = draw(model), state(model)
    assert (before[0], set(before[1])) == (PLAIN, {None}), "trying the kernel left it behind"
    (active, processors, _), left = seen_within(model)
    assert active == PLAIN, "other networks of the process would have used its kernel"
    assert {str(each.value) for each in processors} == {MATH}
    assert left == before, "a cancelled film left something behind"
    draw(model, "fast")
    assert state(model) == before
    assert np.array_equal(draw(model), exact)


def seen_within(model: OpenModel) -> tuple[Any, Any]:
    """The state in the middle of a fast film, and that when it was cancelled there."""
    seen = []

    def watch(step: Step) -> None:
        seen.append(state(model))
        if len(seen) == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        model.draw(task_of(model, "fast"), watch)
    return seen[-1], state(model)


def test_blocks_are_compiled_once_for_all_and_exact_films_are_as_before(wan: OpenModel) -> None:
    traced: list[object] = []

    def backend(graph: torch.fx.GraphModule, given: list[torch.Tensor]) -> object:
        traced.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiler = Compiler(strict=True, backend=backend)
    quick = replace(wan, means=Means(compiler=compiler))
    exact, plain, before = draw(wan), draw(wan, "fast"), state(wan)
    (_, _, forwards), left = seen_within(quick)
    assert all(now != then for now, then in zip(forwards, before[2], strict=True))
    assert left == before, "a cancelled film left something behind"
    fast = draw(quick, "fast")
    assert np.abs(fast - plain).max() < 1e-5, "it is compiled, and another film"
    assert len(traced) == 1, "blocks or films share nothing"
    assert np.array_equal(draw(wan), exact)
    assert state(wan) == before


def test_what_cannot_be_compiled_is_computed_all_the_same_and_said_once(wan: OpenModel) -> None:
    def backend(graph: torch.fx.GraphModule, given: list[torch.Tensor]) -> object:
        raise RuntimeError("no compiler is installed")

    torch.compiler.reset()
    plain = draw(wan, "fast")
    quick = replace(wan, means=Means(compiler=Compiler(strict=False, backend=backend)))
    with pytest.warns(RuntimeWarning, match="blocks are not compiled: .*no compiler") as said:
        films = [draw(quick, "fast") for _ in range(2)]
    assert all(np.array_equal(film, plain) for film in films)
    assert len([each for each in said if each.category is RuntimeWarning]) == 1
    torch.compiler.reset()


def test_blocks_are_compiled_on_cuda_or_where_asked_for_and_never_where_they_come_and_go(
    wan: OpenModel,
) -> None:
    pipe = wan.place.pipe

    def compiles(place: Place, compiled: str) -> bool:
        return means_of(place, False, "native", compiled).compiler is not None

    cpu, cuda = Place(pipe, "cpu"), Place(pipe, "cuda")
    assert [compiles(cpu, how) for how in ("auto", "on", "off")] == [False, True, False]
    assert [compiles(cuda, how) for how in ("auto", "on", "off")] == [True, True, False]
    for place in (Place(pipe, "cuda", Plan("blocks")), Place(pipe, "cuda", stored=FLOAT8)):
        assert not compiles(place, "auto")
        assert not compiles(place, "on")
    with pytest.raises(ValueError, match="compiled 'maybe' is none of"):
        compiles(cpu, "maybe")


def test_kernels_that_would_be_fetched_or_do_not_work_here_are_refused(model: OpenModel) -> None:
    network = model.place.pipe.transformer
    before = state(model)
    masked = model.adapter.masked
    assert choose("auto", "cpu", network, masked=masked) == "native"
    hubs = [name for name in names() if name.endswith("_hub")]
    assert hubs
    for name in hubs:
        with pytest.raises(ValueError, match="fetched from a hub"):
            choose(name, "cpu", network, masked=masked)
    with pytest.raises(ValueError, match="'telepathy' is none of"):
        choose("telepathy", "cpu", network, masked=masked)
    with pytest.raises(ValueError, match="'flash' does not work here: RuntimeError"):
        choose("flash", "cpu", network, masked=masked)
    assert state(model) == before


def test_a_network_without_repeated_blocks_is_left_as_it_is() -> None:
    network = diffusers.AutoencoderKL(
        block_out_channels=(8,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        norm_num_groups=4,
    )
    with Compiler(strict=True).over(network), only_for(network, MATH):
        assert repeated(network) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiles for a GPU")
@pytest.mark.gpu
def test_a_fast_film_on_a_gpu_is_near_the_exact_one(tmp_path: Path) -> None:
    model = load("wan-2.1", tmp_path, "cuda", compiled="on")
    exact = draw(model)
    assert np.abs(draw(model, "fast") - exact).mean() < 0.05
    assert np.array_equal(draw(model), exact)
