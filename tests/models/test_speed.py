"""The quality `fast`: another kernel for attention, compiled blocks; nothing of them is left."""

import warnings
from dataclasses import replace
from pathlib import Path

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

MATH = "_native_math"
TRACED = "eager"  # a backend that traces blocks as every other does, and then runs what it found


@pytest.fixture(scope="module", params=["wan-2.1", "ltx"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenModel:
    base = tmp_path_factory.mktemp("speed")
    frames = LENGTHS.get(request.param, FRAMES)
    wishes = Wishes(("32x32",), frames, 4, 3.0, None)
    add("wild", build(request.param, base / "weights"), base / "models", wishes, None)
    loaded = load_model("wild", base / "models" / "wild", "cpu", attention=MATH)
    assert isinstance(loaded, OpenModel)
    return loaded


def silent(step: Step) -> None:
    """Nobody asks."""


def task_of(model: OpenModel, quality: str | None) -> Task:
    card = model.card
    rate, frames = card.fps[0], card.default_frames
    task = Task("text", "a red fox", "rain", 32, 32, frames, rate, 7, 4, 3.0, "native")
    return replace(task, quality=quality)


def draw(model: OpenModel, quality: str | None = None) -> np.ndarray:
    return model.draw(task_of(model, quality), silent)


def state(model: OpenModel) -> tuple[object, ...]:
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
    return str(active), processors, forwards


def test_exact_films_around_a_fast_one_are_the_same_and_nothing_of_it_is_left(
    model: OpenModel,
) -> None:
    means = Means(model.means.attention, Compiler(strict=True, backend=TRACED))
    quick = replace(model, means=means)
    exact, before = draw(model), state(model)
    seen = []

    def watch(step: Step) -> None:
        seen.append(state(model))
        if len(seen) == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        quick.draw(task_of(model, "fast"), watch)
    assert state(model) == before, "a cancelled film left something behind"
    (active, processors, forwards) = seen[-1]
    assert active == before[0], "other networks of the process would have used its kernel"
    assert {str(each.value) for each in processors} == {MATH}  # type: ignore[attr-defined]
    assert forwards != before[2]
    assert np.array_equal(draw(model), exact)
    fast = draw(quick, "fast")
    assert np.array_equal(draw(model), exact)
    assert np.array_equal(draw(quick, "fast"), fast)
    plain = draw(replace(model, means=Means()), "fast")
    assert np.abs(fast - plain).max() < 1e-3, "it is compiled, and another film"


def test_compiled_blocks_are_traced_once_for_all_films_of_a_shape(model: OpenModel) -> None:
    traced: list[object] = []

    def backend(graph: torch.fx.GraphModule, given: list[torch.Tensor]) -> object:
        traced.append(graph)
        return graph.forward

    torch.compiler.reset()
    quick = replace(model, means=Means(compiler=Compiler(strict=True, backend=backend)))  # type: ignore[arg-type]
    draw(quick, "fast")
    once = len(traced)
    draw(quick, "fast")
    assert 0 < once == len(traced)
    assert once <= len(repeated(model.place.pipe.transformer)), "blocks share nothing"


def test_what_cannot_be_compiled_is_computed_all_the_same_and_said_once(model: OpenModel) -> None:
    def backend(graph: torch.fx.GraphModule, given: list[torch.Tensor]) -> object:
        raise RuntimeError("no compiler is installed")

    torch.compiler.reset()
    plain = draw(replace(model, means=Means()), "fast")
    compiler = Compiler(strict=False, backend=backend)  # type: ignore[arg-type]
    quick = replace(model, means=Means(compiler=compiler))
    with pytest.warns(RuntimeWarning, match="blocks are not compiled: .*no compiler"):
        assert np.array_equal(draw(quick, "fast"), plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert np.array_equal(draw(quick, "fast"), plain)
    torch.compiler.reset()
    strict = replace(model, means=Means(compiler=Compiler(strict=True, backend=backend)))  # type: ignore[arg-type]
    with pytest.raises(Exception, match="no compiler"):
        draw(strict, "fast")
    torch.compiler.reset()


def test_blocks_are_compiled_on_cuda_or_where_asked_for_and_never_where_they_come_and_go(
    model: OpenModel,
) -> None:
    pipe = model.place.pipe

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
    wishes = Wishes(("32x32",), FRAMES, 4, 3.0, None)
    add("wild", build("wan-2.1", tmp_path / "weights"), tmp_path / "models", wishes, None)
    model = load_model("wild", tmp_path / "models" / "wild", "cuda", "float32", compiled="on")
    assert isinstance(model, OpenModel)
    exact = draw(model)
    assert np.abs(draw(model, "fast") - exact).mean() < 0.05
    assert np.array_equal(draw(model), exact)
