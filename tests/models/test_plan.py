"""Laws of the plan for a checkpoint's memory, and that films do not depend on it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.batch import Place as Seat
from models.openweights.__main__ import add
from models.openweights.adapter import Adapter
from models.openweights.families import Wishes
from models.openweights.folder import read_checkpoint
from models.openweights.loading import ADAPTERS, load_pipeline
from models.openweights.memory import Place, bytes_of, put, sizes_of
from models.openweights.pipeline import OpenModel
from models.openweights.plan import GIB, LADDER, LEAST, Plan, Sizes, choose
from models.protocol import Maker, ResumableModel, Step, Task
from models.registry import load_model
from tests.models.wilds import FRAMES, build

# Of diffusers' own making: a scheduler hands a tensor to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BYTES = st.integers(0, 60 * GIB)
FREE = st.integers(0, 200 * GIB)
SIZES = st.builds(
    Sizes,
    encoders=st.lists(BYTES, max_size=2).map(tuple),
    denoisers=st.lists(BYTES, min_size=1, max_size=2).map(tuple),
    others=st.lists(BYTES, max_size=2).map(tuple),
    block=st.integers(0, GIB),
    pixels=st.integers(1024, 2**22),
)
# bfloat16: a text encoder of 5.7 billion parameters, and Wan's networks.
SMALL = Sizes((11_360_000_000,), (2_840_000_000,), (508_000_000,), 95_000_000, 832 * 480)
LARGE = Sizes((11_360_000_000,), (28_600_000_000,) * 2, (508_000_000,), 702_000_000, 1280 * 720)


@given(FREE, SIZES)
def test_a_plan_fits_unless_it_is_the_least_there_is(free: int, sizes: Sizes) -> None:
    plan = choose(free, sizes)
    assert plan.need(sizes) <= free or plan == LEAST


@given(FREE, FREE, SIZES)
def test_more_memory_never_makes_a_worse_plan(one: int, other: int, sizes: Sizes) -> None:
    def rank(free: int) -> tuple[bool, int]:
        plan = choose(free, sizes)
        return plan.tiled, LADDER.index(plan.place)

    assert rank(max(one, other)) <= rank(min(one, other))


@given(FREE, SIZES)
def test_films_are_tiled_only_where_no_other_means_is_enough(free: int, sizes: Sizes) -> None:
    exact = [Plan(place) for place in LADDER]
    assert choose(free, sizes).tiled == all(plan.need(sizes) > free for plan in exact)


@pytest.mark.parametrize(
    ("free_gib", "sizes", "place"),
    [
        (80, SMALL, "whole"),
        (12, SMALL, "released"),
        (96, LARGE, "whole"),
        (64, LARGE, "released"),
        (40, LARGE, "parts"),
        (16, LARGE, "blocks"),
    ],
)
def test_the_plans_for_known_networks_on_known_cards(
    free_gib: int, sizes: Sizes, place: str
) -> None:
    assert choose(free_gib * GIB, sizes) == Plan(place)


def draw(model: OpenModel, **fields: object) -> np.ndarray:
    rate = model.card.fps[0]
    task = Task("text", "a red fox", "rain", 32, 32, FRAMES, rate, 7, 2, 3.0, "native")
    return model.draw(Task(**vars(task) | fields), silent)


def silent(step: Step) -> None:
    """Nobody asks."""


@pytest.fixture(scope="module", params=["wan-2.2-a14b", "ltx"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("plan")
    wishes = Wishes(("32x32",), FRAMES, 2, 3.0, None)
    add("wild", build(request.param, base / "weights"), base / "models", wishes, None)
    return base


def load(folder: Path, dtype: str = "auto") -> OpenModel:
    model = load_model("wild", folder / "models" / "wild", "cpu", dtype)
    assert isinstance(model, OpenModel)
    return model


def placed(folder: Path, adapter: Adapter, plan: Plan) -> Place:
    pipe = load_pipeline(read_checkpoint(folder / "weights"), adapter, torch.float32)
    return put(pipe, "cpu", plan)


def test_a_film_is_the_same_wherever_the_parts_are(folder: Path) -> None:
    model = load(folder)
    whole, fast = draw(model), draw(model, quality="fast")
    for place in ("released", "blocks"):
        moved = OpenModel(
            model.card,
            model.weights_sha256,
            model.adapter,
            placed(folder, model.adapter, Plan(place)),
        )
        assert model.adapter in ADAPTERS.values()
        assert np.array_equal(draw(moved), whole), place
        assert np.array_equal(draw(moved, quality="fast"), fast), place
        assert np.array_equal(draw(moved), whole), f"{place}, after a fast film"


def test_films_share_passes_though_parts_only_visit(folder: Path) -> None:
    model = load(folder)
    place = placed(folder, model.adapter, Plan("blocks"))
    moved = OpenModel(model.card, model.weights_sha256, model.adapter, place)
    drawn: dict[int, np.ndarray] = {}

    def maker(seed: int) -> Maker:
        def make(seat: ResumableModel) -> None:
            assert isinstance(seat, Seat), "films were made one by one"
            assert isinstance(seat.model, OpenModel)
            with seat.table.turn:
                drawn[seed] = draw(seat.model, seed=seed)

        return make

    moved.together([maker(7), maker(8)])
    for seed, film in drawn.items():
        assert np.abs(film - draw(model, seed=seed)).max() < 1e-4
    assert sorted(drawn) == [7, 8]


def test_sizes_are_those_of_the_weights(folder: Path) -> None:
    model = load(folder)
    pipe = model.place.pipe
    sizes = sizes_of(pipe, 1024)
    files = (folder / "weights").glob("*/*.safetensors")
    stored = sum(path.stat().st_size for path in files)
    assert sizes.held("whole") == pytest.approx(stored, rel=0.1)  # headers are in the files
    assert sizes.denoisers[0] == bytes_of(pipe.transformer)
    assert 0 < sizes.block < sizes.denoisers[0]
    assert sizes.held("released") + sum(sizes.encoders) == sizes.held("whole")


def test_eight_bits_hold_half_of_sixteen_and_change_films_a_little(folder: Path) -> None:
    exact, narrow = load(folder), load(folder, "float8")
    wide, stored = (sum(sizes_of(model.place.pipe, 1).denoisers) for model in (exact, narrow))
    assert stored < 0.6 * wide  # of 32 bits here; norms and embeddings stay as they are
    difference = float(np.abs(draw(exact) - draw(narrow)).max())
    assert 0 < difference < 0.2
    assert str(exact.place) != str(narrow.place), "their checkpoints would be taken for one another"


def test_only_open_weights_are_stored_in_eight_bits() -> None:
    with pytest.raises(ValueError, match="float8"):
        load_model("pocket", None, "cpu", "float8")
