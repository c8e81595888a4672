"""Laws of what training clips are given."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.training.conditions import (
    MOST_SIGMA,
    Mixture,
    draw_conditions,
    draw_kinds,
    draw_references,
    sketch,
    strange,
    targets,
)
from models.training.loop import Draws, draws
from models.training.scenes import SCENES
from models.training.sprites import Sprite
from models.training.world import SLOW, TINTS, Actor, ClipState, World, WorldConfig
from models.videoldm.conditioning import Conditions, Kind, frame_times, text_only

COUNT, FRAMES = 400, 16
SHAPE = (4, 2, 2)


def words(count: int = COUNT, frames: int = FRAMES) -> Conditions:
    text, mask = torch.randn(count, 3, 8), torch.ones(count, 3, dtype=torch.bool)
    return text_only(text, mask, frame_times(frames, 8).expand(count, -1), 8.0, SHAPE)


def clips(count: int = COUNT, frames: int = FRAMES) -> Tensor:
    """Every value is its frame's number, so that a given frame tells where it is from."""
    numbers = torch.arange(frames, dtype=torch.float32) + 1
    return numbers[None, None, :, None, None].expand(count, 4, frames, 2, 2).contiguous()


def drawn(**shares: float) -> Conditions:
    return draw_conditions(words(), clips(), draws(0, 0), only(**shares))


def only(**shares: float) -> Mixture:
    """Nothing but these kinds; nothing dropped unless asked for."""
    quiet = dict.fromkeys(
        [*Mixture().shares, "text_dropout", "last_dropout", "reference_dropout", "far_end"], 0.0
    )
    return replace(Mixture(), **quiet | {"rough_first": 0.0, "context_reference": 0.0} | shares)


def given_slots(told: Conditions, kind: Kind) -> Tensor:
    """Where frames of this kind are given, (b, t)."""
    return told.kind == int(kind)


def test_the_same_draws_give_the_same_conditions() -> None:
    one, two = (draw_conditions(words(), clips(), draws(3, 1)) for _ in range(2))
    assert torch.equal(one.frames, two.frames)
    assert torch.equal(one.kind, two.kind)
    assert not torch.equal(one.kind, draw_conditions(words(), clips(), draws(3, 2)).kind)


def test_slots_without_a_frame_hold_nothing() -> None:
    told = draw_conditions(words(), clips(), draws(0, 0))
    empty = told.kind == int(Kind.NONE)
    given = told.mask[:, 0, :, 0, 0].bool()
    assert torch.equal(given, ~empty)
    assert not told.frames.transpose(1, 2)[empty].any()
    assert not told.frame_sigma[empty].any()
    assert given.any(1).float().mean() > 0.5


def test_the_first_frame_is_missing_in_at_least_a_tenth() -> None:
    told = draw_conditions(words(), clips(), draws(0, 0))
    share = given_slots(told, Kind.FIRST)[:, 0].float().mean()
    assert 0.35 < float(share) < 0.9
    counts = Counter(draw_kinds(Mixture(), 10_000, FRAMES, True, draws(0, 0)))
    assert counts["text"] >= 1000


def test_the_first_frame_is_in_the_first_slot_under_a_little_noise() -> None:
    told = drawn(first=1.0)
    assert given_slots(told, Kind.FIRST).sum() == given_slots(told, Kind.FIRST)[:, 0].sum() == COUNT
    levels = told.frame_sigma[:, 0]
    assert 0.08 < float(levels.max()) <= MOST_SIGMA[Kind.FIRST]
    shown = told.frames[:, :, 0].flatten(1)
    expected = torch.sqrt(1 - levels**2)[:, None]
    assert float(((shown - expected) / levels[:, None]).std()) == pytest.approx(1, abs=0.1)


def test_some_first_frames_are_of_any_strength() -> None:
    told = drawn(first=1.0, rough_first=0.5)
    rough = told.frame_sigma[:, 0] > MOST_SIGMA[Kind.FIRST]
    assert 0.35 < float(rough.float().mean()) < 0.55
    assert float(told.frame_sigma.max()) > 0.9


def test_clips_towards_drawings_have_words_less_often_than_others() -> None:
    mixture = only(first_last=1.0, sketch=0.5, text_dropout=0.1, sketch_text_dropout=0.6)
    lines = torch.full((COUNT, 4, 2, 2), 7.0)
    told = draw_conditions(words(), clips(), draws(0, 0), mixture, sketches=lines)
    drawn_ones = given_slots(told, Kind.SKETCH)[:, -1]
    assert 0.4 < float(drawn_ones.float().mean()) < 0.6
    levels = told.frame_sigma[drawn_ones, -1]
    shown = told.frames[drawn_ones, :, -1].mean((1, 2, 3)) / torch.sqrt(1 - levels**2)
    assert float(shown.mean()) == pytest.approx(7, abs=0.2)
    wordless = ~told.text_mask.any(1)
    assert float(wordless[drawn_ones].float().mean()) == pytest.approx(0.6, abs=0.08)
    assert float(wordless[~drawn_ones].float().mean()) == pytest.approx(0.1, abs=0.05)


def test_the_last_frame_is_one_of_the_last_three_in_the_last_slot() -> None:
    told = drawn(first_last=1.0)
    last = given_slots(told, Kind.LAST)
    assert last[:, -1].all()
    assert not last[:, :-1].any()
    levels = told.frame_sigma[:, -1]
    assert 0.35 < float(levels.max()) <= 0.4
    number = told.frames[:, :, -1].mean((1, 2, 3)) / torch.sqrt(1 - levels**2)
    nearest = Counter(number.round().int().tolist())
    assert sum(nearest[n] for n in (14, 15, 16)) > 0.99 * COUNT
    assert min(nearest[n] for n in (14, 15, 16)) > COUNT / 5


def test_the_last_frame_of_a_sparse_clip_is_its_own() -> None:
    told = draw_conditions(words(40, 4), clips(40, 4), draws(0, 0), only(first_last=1.0))
    number = told.frames[:, :, -1].mean((1, 2, 3)) / torch.sqrt(1 - told.frame_sigma[:, -1] ** 2)
    assert float((number - 4).abs().mean()) < 0.2


def test_a_quarter_of_last_frames_is_dropped() -> None:
    told = drawn(first_last=1.0, last_dropout=0.25)
    dropped = ~given_slots(told, Kind.LAST)[:, -1]
    assert 0.19 < float(dropped.float().mean()) < 0.31
    assert given_slots(told, Kind.FIRST)[:, 0].all()


@pytest.mark.parametrize(("name", "count"), [("context_one", 1), ("context_two", 2)])
def test_context_is_at_either_end(name: str, count: int) -> None:
    told = drawn(**{name: 1.0})
    context = given_slots(told, Kind.CONTEXT)
    assert torch.equal(context.sum(1), torch.full((COUNT,), count))
    before, after = context[:, :count].all(1), context[:, -count:].all(1)
    assert torch.equal(before, ~after)
    assert 0.26 < float(after.float().mean()) < 0.40
    assert float(told.frame_sigma.max()) <= MOST_SIGMA[Kind.CONTEXT]


def test_the_other_end_of_a_clip_with_context_is_given_at_times() -> None:
    told = drawn(context_two=1.0, far_end=0.5)
    context = given_slots(told, Kind.CONTEXT)
    last, first = given_slots(told, Kind.LAST)[:, -1], given_slots(told, Kind.FIRST)[:, 0]
    assert 0.4 < float((last | first).float().mean()) < 0.6
    assert not (last & ~context[:, 0]).any()
    assert not (first & ~context[:, -1]).any()


def test_the_loss_counts_everywhere_but_at_context_and_twice_at_first_frames() -> None:
    told = draw_conditions(words(), clips(), draws(0, 0))
    counted = targets(told)
    assert torch.equal(counted[:, 0, :, 0, 0] == 2, given_slots(told, Kind.FIRST))
    assert counted.shape == (COUNT, 1, FRAMES, 1, 1)
    assert torch.equal(counted[:, 0, :, 0, 0] == 0, given_slots(told, Kind.CONTEXT))


def test_text_is_dropped_whatever_else_is_given() -> None:
    told = drawn(first=0.5, context_two=0.5, text_dropout=0.3)
    silent = ~told.text_mask.any(1)
    assert 0.23 < float(silent.float().mean()) < 0.37
    framed = given_slots(told, Kind.FIRST)[:, 0]
    assert (silent & framed).any()
    assert (silent & ~framed).any()


def test_a_single_frame_is_now_and_then_given_itself() -> None:
    mixture = Mixture(single_first=0.25, rough_first=0.0)
    told = draw_conditions(words(frames=1), clips(frames=1), draws(0, 0), mixture)
    assert float(given_slots(told, Kind.FIRST).float().mean()) == pytest.approx(0.25, abs=0.06)


def test_a_single_frame_is_given_nothing_but_references() -> None:
    references = torch.ones(COUNT, 4, 2, 2, 2)
    told = draw_conditions(words(frames=1), clips(frames=1), draws(0, 0), references=references)
    assert not told.mask.any()
    assert told.references is not None


def with_references(**shares: float) -> Conditions:
    pictures = torch.ones(COUNT, 4, 3, 2, 2)
    return draw_conditions(words(), clips(), draws(0, 0), only(**shares), pictures)


def test_references_are_in_use_where_the_kind_says_so() -> None:
    told = with_references(reference=0.5, first=0.5)
    assert told.reference_mask is not None
    used = told.reference_mask.any(1)
    assert torch.equal(used, ~given_slots(told, Kind.FIRST)[:, 0])
    counts = Counter(told.reference_mask.sum(1).tolist())
    assert min(counts[n] for n in (1, 2, 3)) > COUNT / 12
    shown = told.references[:, 0, :, 0, 0].bool()
    assert torch.equal(shown, told.reference_mask)


def test_a_dropped_reference_is_zeros_that_are_still_in_use() -> None:
    told = with_references(reference=1.0, reference_dropout=0.3)
    assert told.references is not None
    assert told.reference_mask is not None
    empty = ~told.references.flatten(1).any(1)
    assert told.reference_mask.any(1).all()
    assert 0.23 < float(empty.float().mean()) < 0.37


def test_without_pictures_no_clip_has_references() -> None:
    told = drawn(reference=1.0, text=0.5)
    assert told.references is None
    assert drawn(text=1.0).references is None


# ---------------------------------------------------------------------------- pictures


class Tiles:
    """Two cut-outs: one red, one green, both filling their box's left half."""

    def __init__(self) -> None:
        self.halves = np.zeros((2, 48, 48, 4), np.uint8)
        self.halves[:, :, :24, 3] = 255
        self.halves[0, :, :24, 0] = 255
        self.halves[1, :, :24, 1] = 255
        self.sprites = (Sprite("tile", "3d", 0, 1), Sprite("tile", "3d", 1, 1))
        self.by_concept = {"tile": [0, 1]}


@pytest.fixture(scope="module")
def world() -> World:
    made = World.__new__(World)
    made.sheet = Tiles()  # type: ignore[assignment]
    made.config = WorldConfig(concepts=("tile",))
    made.bank = torch.full((len(SCENES), 24, 3, 96, 160), 255, dtype=torch.uint8)
    return made


def state(sprite: int) -> ClipState:
    actor = Actor("tile", sprite, "left", SLOW, (0.5, 0.5), 0.4, 0.0, False)
    return ClipState((actor,), "sky", 0, (0.5, 0.5), (0.0, 0.0))


def stream(seed: int) -> Draws:
    return Draws(random.Random(seed), torch.Generator().manual_seed(seed))


def test_references_show_the_very_subject_and_never_the_clip(world: World) -> None:
    states = [state(0), state(1)] * 4
    pictures = draw_references(world, states, 3, stream(0), side=32)
    assert pictures.shape == (8, 3, 3, 32, 32)
    darkened = (pictures < 0).flatten(3).sum(-1)  # pixels without red, without green
    for row, clip in enumerate(states):
        own = clip.subject.sprite
        assert bool((darkened[row, own] == 0).all())
        assert bool((darkened[row, 1 - own] > 30).all())
    flat = pictures.transpose(1, 2).flatten(0, 1)
    assert len({tuple(picture.flatten().tolist()) for picture in flat}) == 24


def test_no_two_tints_are_the_same_and_the_first_changes_nothing(world: World) -> None:
    clip, clock = state(0), torch.ones(1, 1)
    tinted = [
        replace(clip, actors=(replace(clip.subject, tint=tint),)) for tint in range(len(TINTS))
    ]
    colours = world.render(tinted, clock.expand(len(TINTS), -1), 32)[:, :, 0, 16, 12]
    assert colours[0].tolist() == [1, -1, -1]
    assert len({tuple(colour.tolist()) for colour in colours}) == 8  # every corner of the cube
    assert len(set(TINTS)) == 48
    assert TINTS[0] == ((0, 1, 2), (False, False, False))


def test_a_stranger_looks_in_its_reference_as_in_its_clip(world: World) -> None:
    strangers = [strange(state(index % 2), random.Random(index)) for index in range(24)]
    assert len({(clip.subject.tint, clip.subject.mirrored) for clip in strangers}) > 15
    pictures = draw_references(world, strangers, 1, stream(0), side=32)[:, :, 0]
    clips = world.render(strangers, torch.ones(24, 1), 32)[:, :, 0]
    for picture, clip in zip(pictures, clips, strict=True):
        assert subject_colour(picture) == subject_colour(clip)


def subject_colour(picture: Tensor) -> tuple[int, ...]:
    """The commonest colour of (3, H, W) but white, as 0 or 1 a channel; white if there is none."""
    levels = (picture > 0).long().flatten(1)
    found = Counter(tuple(pixel) for pixel in levels.T.tolist() if 0 in pixel)
    return found.most_common(1)[0][0] if found else (1, 1, 1)


def test_a_sketch_is_dark_at_edges_only() -> None:
    frames = torch.ones(1, 3, 16, 16)
    frames[..., 8:] = -1
    lines = sketch(frames)
    assert lines.shape == frames.shape
    assert bool((lines[..., 7:9] == -1).all())
    assert bool((lines[..., :6] == 1).all())
    assert bool((lines[..., 10:] == 1).all())
