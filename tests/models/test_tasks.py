"""Laws of every kind of task, on a tiny preset that may do them all."""

import gc
import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.catalog import TASKS
from models.protocol import Cancelled, Frames, Reference, Shot, Step, StreamingModel, Task
from models.videoldm.branches import tell
from models.videoldm.conditioning import Conditions, Kind
from models.videoldm.config import read_config, write_config
from models.videoldm.denoising import Course, denoise_function, sample
from models.videoldm.given import Given, conditions_of, decode_latents, encode_picture
from models.videoldm.guidance import FULL
from models.videoldm.pictures import write_frames
from models.videoldm.pipeline import VideoLDM, load_videoldm
from models.videoldm.samplers import SamplerState
from models.videoldm.segments import Segment, segment_seed
from tests.models.presets import TINY, build_preset

STEPS = 2
CLIP = 8  # frames of the longest clip of a longer film


def noise(seed: int, *shape: int) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


ONE, TWO, THREE = (noise(seed, 32, 32, 3) for seed in range(3))
SOURCE = noise(9, 6, 32, 32, 3)
TEXT = Task(
    task_type="text",
    prompt="a cat moving left over a sunset",
    negative_prompt="",
    width=32,
    height=32,
    num_frames=CLIP,
    fps=8,
    seed=7,
    num_inference_steps=STEPS,
    guidance_scale=3.0,
    sampler="dpmpp_2m",
)
IMAGE = replace(TEXT, task_type="image", first_frame=ONE)
BOTH = replace(IMAGE, task_type="first_last_frame", last_frame=TWO)
REFERENCE = replace(TEXT, task_type="reference", references=(Reference(ONE),))
EXTEND = replace(TEXT, task_type="extend", video=SOURCE, video_fps=8.0, num_frames=16)
EDIT = replace(TEXT, task_type="edit", video=SOURCE, num_frames=6)
SHOTS = (Shot("a cat", 12, 1), Shot("a dog", 6, 2), Shot("a bus", 6, 3, transition="cut"))
STORY = replace(TEXT, task_type="story", shots=SHOTS, num_frames=24)

SAMPLERS = ("dpmpp_2m", "ddim", "ancestral")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoLDM]:
    torch.set_num_threads(1)
    flat = {"widths": (16,), "blocks": (1,), "trained_frames": CLIP}
    unet = replace(TINY.unet, **flat, spatial_attention=(True,), temporal_attention=(True,))
    config = replace(TINY, unet=unet)
    folder = build_preset(tmp_path_factory.mktemp("models") / "tiny", config=config)
    allow_everything(folder)
    return load_videoldm(folder, "cpu", torch.float32)


def allow_everything(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    frames = {"offset": 0, "step": 1, "minimum": 4, "maximum": 32}
    (folder / "card.json").write_text(
        json.dumps(card | {"tasks": list(TASKS), "frames": frames, "inputs": {}}), encoding="utf-8"
    )
    config = read_config(folder / "config.json")
    write_config(replace(config, abilities=("sketch",)), folder / "config.json")


def silent(step: Step) -> None:
    del step


def film(model: VideoLDM, task: Task, **changes: object) -> Frames:
    return model.generate(replace(task, **changes), silent)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------- given frames


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_zero_last_frame_strength_is_no_last_frame_bit_for_bit(
    model: VideoLDM, sampler: str
) -> None:
    none = film(model, IMAGE, sampler=sampler)
    assert np.array_equal(film(model, BOTH, sampler=sampler, last_frame_strength=0.0), none)
    assert not np.array_equal(film(model, BOTH, sampler=sampler), none)


def told(model: VideoLDM, task: Task) -> list[Conditions]:
    """What the network is told, call by call."""
    heard: list[Conditions] = []
    handle = model.preset.unet.register_forward_hook(lambda _m, given, _out: heard.append(given[2]))
    model.generate(task, silent)
    handle.remove()
    return heard


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5, 1.0])
def test_the_last_frame_is_seen_in_all_branches_for_its_share_of_steps(
    model: VideoLDM, strength: float
) -> None:
    calls = told(model, replace(BOTH, last_frame_strength=strength, num_inference_steps=4))
    assert len(calls) == 2 * 4
    seen = [int(call.kind[0, -1]) == Kind.LAST for call in calls]
    share = {0.0: 0, 0.3: 1, 0.5: 2, 1.0: 4}[strength]
    assert seen == [True] * (2 * share) + [False] * (2 * (4 - share))
    assert all(int(call.kind[0, 0]) == Kind.FIRST for call in calls)


def test_zero_first_frame_strength_is_text_alone(model: VideoLDM) -> None:
    assert np.array_equal(film(model, IMAGE, first_frame_strength=0.0), film(model, TEXT))


def test_first_frame_strength_is_the_noise_on_it(model: VideoLDM) -> None:
    given = {s: told(model, replace(IMAGE, first_frame_strength=s))[0] for s in (1.0, 0.9, 0.5)}
    assert [round(float(g.frame_sigma[0, 0]), 6) for g in given.values()] == [0.0, 0.1, 0.5]
    clean = encode_picture(model.preset, ONE, IMAGE)
    assert torch.equal(given[1.0].frames[:, :, 0], clean)
    errors = [float((g.frames[:, :, 0] - clean).square().mean()) for g in given.values()]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ddim", "ancestral"])
def test_a_clip_begins_with_the_frame_that_binds(model: VideoLDM, sampler: str) -> None:
    latent = encode_picture(model.preset, ONE, IMAGE)
    assert latent is not None
    kept = write_frames(decode_latents(model.preset, latent[:, :, None]))[0].astype(int)
    begun = film(model, IMAGE, sampler=sampler)[0].astype(int)
    assert abs(begun - kept).max() <= 1
    rough = film(model, IMAGE, sampler=sampler, first_frame_strength=0.9)[0].astype(int)
    assert abs(rough - kept).max() > 1


def test_a_last_frame_is_told_with_its_noise_and_a_sketch_as_a_sketch(model: VideoLDM) -> None:
    call = told(model, BOTH)[0]
    assert float(call.frame_sigma[0, -1]) == pytest.approx(0.32)
    drawn = told(model, replace(BOTH, last_frame_is_sketch=True))[0]
    assert int(drawn.kind[0, -1]) == Kind.SKETCH


# ---------------------------------------------------------------------------- references


def test_references_change_the_film_and_none_of_them_at_strength_zero(model: VideoLDM) -> None:
    alone = film(model, TEXT)
    assert not np.array_equal(film(model, REFERENCE), alone)
    assert np.array_equal(film(model, REFERENCE, reference_strength=0.0), alone)


def test_every_reference_counts_up_to_seven(model: VideoLDM) -> None:
    pictures = tuple(Reference(noise(seed, 20, 30, 4)) for seed in range(7))
    calls = told(model, replace(REFERENCE, references=pictures))
    assert calls[0].references is not None
    assert calls[0].references.shape[2] == 7
    fewer = film(model, REFERENCE, references=pictures[:6])
    assert not np.array_equal(film(model, REFERENCE, references=pictures), fewer)


def test_the_null_reference_is_zeros_in_its_place(model: VideoLDM) -> None:
    calls = told(model, REFERENCE)
    shown = [bool(call.references is not None and call.references.any()) for call in calls]
    worded = [bool(call.text_mask.any()) for call in calls]
    assert sorted(zip(shown, worded, strict=True)) == sorted(
        [(False, False), (True, False), (True, True)] * STEPS
    )
    assert all(call.references is not None and call.reference_mask.all() for call in calls)


def test_reference_strength_sets_the_scale_of_guidance(model: VideoLDM) -> None:
    films = [film(model, REFERENCE, reference_strength=s).astype(int) for s in (0.5, 1.0)]
    assert np.abs(films[0] - films[1]).max() > 0


# ---------------------------------------------------------------------------- extension


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("weight", [None, 3.0])
def test_an_extension_leaves_the_source_as_it_was(
    model: VideoLDM, before: bool, weight: float | None
) -> None:
    whole = film(model, EXTEND, extend_before=before, reconstruction_weight=weight)
    assert whole.shape == (16, 32, 32, 3)
    assert np.array_equal(whole[-6:] if before else whole[:6], SOURCE)


def test_an_extension_sees_the_end_that_it_continues(model: VideoLDM) -> None:
    changed = SOURCE.copy()
    changed[:4] = 0
    made = film(model, EXTEND, num_frames=12)
    assert np.array_equal(film(model, EXTEND, num_frames=12, video=changed)[6:], made[6:])
    changed[-1] = 0
    assert not np.array_equal(film(model, EXTEND, num_frames=12, video=changed)[6:], made[6:])


def test_an_extension_backwards_sees_the_beginning(model: VideoLDM) -> None:
    task = replace(EXTEND, num_frames=12, extend_before=True)
    changed = SOURCE.copy()
    changed[2:] = 0
    made = film(model, task)
    assert np.array_equal(film(model, task, video=changed)[:6], made[:6])
    changed[0] = 0
    assert not np.array_equal(film(model, task, video=changed)[:6], made[:6])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_context_is_given_clean_beside_what_is_new(model: VideoLDM, count: int) -> None:
    calls = told(model, replace(EXTEND, num_frames=11, context_frames=count))
    full = next(call for call in reversed(calls) if call.text_mask.any())
    kinds = full.kind[0].tolist()
    assert kinds == [int(Kind.CONTEXT)] * count + [int(Kind.NONE)] * 5
    assert not full.frame_sigma.any()
    backwards = told(
        model, replace(EXTEND, num_frames=11, context_frames=count, extend_before=True)
    )
    assert backwards[-1].kind[0].tolist() == kinds[::-1]


def test_context_guidance_drops_the_context_and_keeps_the_words_out(model: VideoLDM) -> None:
    task = replace(EXTEND, num_frames=12)
    calls = told(model, task)
    seen = [(bool(call.mask.any()), bool(call.text_mask.any())) for call in calls]
    assert sorted(seen) == sorted([(False, False), (True, False), (True, True)] * STEPS)
    unguided = told(model, replace(task, context_guidance=1.0, guidance_scale=1.0))
    assert len(unguided) == STEPS


def test_a_source_of_another_size_and_rate_is_brought_to_the_films(model: VideoLDM) -> None:
    video = noise(4, 18, 64, 64, 3)
    whole = film(model, EXTEND, video=video, video_fps=24.0, num_frames=12)
    assert whole.shape == (12, 32, 32, 3)
    still = np.repeat(noise(5, 1, 64, 64, 3), 18, 0)
    shown = film(model, EXTEND, video=still, video_fps=24.0, num_frames=12)[:6]
    assert np.array_equal(shown, np.repeat(shown[:1], 6, 0))


def test_reconstruction_tells_the_network_nothing_and_still_follows_the_source(
    model: VideoLDM,
) -> None:
    task = replace(EXTEND, num_frames=12, reconstruction_weight=3.0)
    assert not any(call.mask.any() for call in told(model, task))
    other = replace(task, video=255 - SOURCE)
    assert not np.array_equal(film(model, task)[6:], film(model, other)[6:])


def test_reconstruction_fills_in_between_two_frames(model: VideoLDM) -> None:
    made = film(model, BOTH, reconstruction_weight=2.0)
    code = encode_picture(model.preset, TWO, BOTH)
    assert code is not None
    decoded = model.preset.autoencoder.decode(code[:, :, None])[0, :, 0]
    shown = torch.from_numpy(made[-1].astype(np.float32)).permute(2, 0, 1) / 127.5 - 1
    assert float((shown - decoded).abs().max()) < 0.01
    early = film(model, BOTH, reconstruction_weight=2.0, last_frame_strength=0.5)
    assert not np.array_equal(early[-1], made[-1])
    none = film(model, BOTH, reconstruction_weight=2.0, last_frame_strength=0.0)
    assert np.array_equal(none, film(model, IMAGE, reconstruction_weight=2.0))


# ---------------------------------------------------------------------------- story


def test_a_story_is_the_sum_of_its_shots_and_its_pieces_are_the_film(model: VideoLDM) -> None:
    whole = film(model, STORY)
    assert whole.shape == (24, 32, 32, 3)
    assert isinstance(model, StreamingModel)
    pieces = list(model.stream(STORY, silent))
    assert len(pieces) > 3
    assert all(0 < len(piece) <= CLIP for piece in pieces)
    assert np.array_equal(np.concatenate(pieces), whole)


def test_a_story_of_one_short_shot_is_a_clip(model: VideoLDM) -> None:
    shot = Shot(TEXT.prompt, CLIP, TEXT.seed)
    one = replace(STORY, shots=(shot,), num_frames=CLIP)
    assert np.array_equal(film(model, one), film(model, TEXT))


def test_a_cut_begins_anew_and_continue_does_not(model: VideoLDM) -> None:
    def second(first_prompt: str, transition: str) -> Frames:
        shots = (Shot(first_prompt, 6, 1), Shot("a dog", 6, 2, transition=transition))  # type: ignore[arg-type]
        return film(model, STORY, shots=shots, num_frames=12)[6:]

    assert np.array_equal(second("a cat", "cut"), second("a bus", "cut"))
    assert not np.array_equal(second("a cat", "continue"), second("a bus", "continue"))


def test_a_later_shot_changes_nothing_before_it(model: VideoLDM) -> None:
    other = (*SHOTS[:2], replace(SHOTS[2], prompt="a ship", first_frame=THREE))
    one, two = film(model, STORY), film(model, STORY, shots=other)
    assert np.array_equal(one[:18], two[:18])
    assert not np.array_equal(one[18:], two[18:])


def test_every_shot_has_frames_and_references_of_its_own(model: VideoLDM) -> None:
    shots = (
        Shot("a cat", 6, 1, first_frame=ONE),
        Shot("a dog", 6, 2, last_frame=TWO),
        Shot("a bus", 6, 3, references=(Reference(THREE),)),
    )
    calls = told(model, replace(STORY, shots=shots, num_frames=18))
    kinds = [set(call.kind.flatten().tolist()) for call in calls]
    assert kinds[0] == {Kind.NONE, Kind.FIRST}
    assert [Kind.LAST in kind for kind in kinds] == [False] * 2 * STEPS + [True] * 3 * STEPS + [
        False
    ] * 3 * STEPS
    assert [call.references is not None for call in calls] == [False] * 5 * STEPS + [
        True
    ] * 3 * STEPS


def test_a_story_tells_its_progress_by_shot_and_never_falls_back(model: VideoLDM) -> None:
    told: list[Step] = []
    model.generate(STORY, told.append)
    denoising = [step for step in told if step.stage == "denoising"]
    assert {(step.total, step.shots) for step in denoising} == {(4 * STEPS, 3)}
    done = [step.index for step in denoising]
    assert done == sorted(done)
    assert set(done) == set(range(4 * STEPS + 1))
    shots = [step.shot for step in told]
    assert shots == sorted(shots)
    assert set(shots) == {0, 1, 2}
    stages = [step.stage for step in told]
    assert stages == sorted(stages, key=("encoding", "denoising", "decoding").index)


def test_a_story_costs_no_more_memory_the_longer_it_is(model: VideoLDM) -> None:
    cheap = {"num_inference_steps": 1, "guidance_scale": 1.0, "context_guidance": 1.0}

    def held(count: int) -> tuple[int, set[int]]:
        """Most numbers in tensors at once, and how many pieces were alive at a time."""
        shots = tuple(Shot("a cat", 6, seed) for seed in range(count))
        task = replace(STORY, shots=shots, num_frames=6 * count, **cheap)  # type: ignore[arg-type]
        numbers, alive, pieces = [], set(), []
        for piece in model.stream(task, silent):
            pieces.append(weakref.ref(piece))
            numbers.append(live_numbers())
            alive.add(sum(ref() is not None for ref in pieces))
        assert len(pieces) == count
        return max(numbers), alive

    few, many = held(2), held(5)
    assert few == many
    assert many[1] == {1}


def live_numbers() -> int:
    """In all tensors that Python can reach, garbage of earlier work taken out."""
    gc.collect()
    tensors = (item for item in gc.get_objects() if issubclass(type(item), Tensor))
    return sum(tensor.numel() for tensor in tensors)


def test_a_story_can_be_stopped_while_a_shot_is_decoded(model: VideoLDM) -> None:
    pieces: list[Frames] = []

    def stop(step: Step) -> None:
        if pieces:
            raise Cancelled

    with pytest.raises(Cancelled):
        pieces.extend(model.stream(STORY, stop))
    assert np.array_equal(film(model, TEXT), film(model, TEXT))


# ---------------------------------------------------------------------------- edit


def test_an_edit_is_the_clip_between_its_edited_ends(model: VideoLDM) -> None:
    both = film(model, EDIT, first_frame=ONE, last_frame=TWO)
    assert np.array_equal(both, film(model, BOTH, num_frames=6))
    one = film(model, EDIT, last_frame=TWO)
    assert np.array_equal(one, film(model, BOTH, num_frames=6, first_frame=SOURCE[0]))


def test_the_middle_of_an_edited_clip_is_never_looked_at(model: VideoLDM) -> None:
    middle = SOURCE.copy()
    middle[1:-1] = 0
    assert np.array_equal(film(model, EDIT), film(model, EDIT, video=middle))
    assert not np.array_equal(film(model, EDIT), film(model, EDIT, video=255 - SOURCE))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_words_alone_edit_the_ends_as_pictures_first(model: VideoLDM, sampler: str) -> None:
    steps: list[Step] = []
    task = replace(EDIT, sampler=sampler)
    made = model.generate(task, steps.append)
    assert made.shape == (6, 32, 32, 3)
    done = [step.index for step in steps if step.stage == "denoising"]
    assert done == list(range(STEPS + 1 + 1))  # of two steps, one runs from the ends' level
    assert not np.array_equal(made, film(model, task, prompt="a bus in the snow"))


# ---------------------------------------------------------------------------- guidance


@pytest.mark.parametrize(
    "tools",
    [
        {"guidance_rescale": 0.7},
        {"guidance_schedule": "oscillating"},
        {"guidance_schedule": "linear"},
    ],
)
def test_every_guidance_tool_changes_a_guided_film_only(
    model: VideoLDM, tools: dict[str, object]
) -> None:
    plain = replace(TEXT, sampler="ddim")
    assert not np.array_equal(film(model, plain, **tools), film(model, plain))
    alone = replace(plain, guidance_scale=1.0)
    assert np.array_equal(film(model, alone, **tools), film(model, alone))


def test_oscillating_guidance_saves_the_forwards_of_its_low_steps(model: VideoLDM) -> None:
    task = replace(TEXT, sampler="ddim", guidance_schedule="oscillating", num_inference_steps=10)
    assert len(told(model, task)) == 10 + 1 + 4  # one high step, then low and high in turn


# ---------------------------------------------------------------------------- resume


@torch.no_grad()
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_clip_resumed_at_any_step_is_the_same_across_the_last_frames_end(
    model: VideoLDM, sampler: str
) -> None:
    course = Course(sampler, 4, 7, 3.0)
    segment = Segment(0, BOTH.prompt, "", 7, 4)
    first, last = (encode_picture(model.preset, picture, BOTH) for picture in (ONE, TWO))
    given = conditions_of(model.preset, BOTH, segment, Given(first=first, last=last))
    branches = tell(given, model.preset.text([""]), 2, torch.float32)
    sigmas = course.sigmas()
    denoise = denoise_function(model.preset.unet, branches, course, sigmas)
    x = torch.randn(branches.early[FULL].frames.shape, generator=torch.Generator().manual_seed(0))
    states: list[SamplerState] = []

    def run(note: Callable[[SamplerState], None], state: SamplerState | None = None) -> Tensor:
        return sample(denoise, x, sigmas, course, branches.restarts(4), note, state)

    whole = run(states.append)
    assert branches.restarts(4) == (2,)
    for state in states:
        assert torch.equal(run(lambda _: None, state), whole)


def test_a_later_segment_is_addressed_by_its_own_seed(model: VideoLDM) -> None:
    long = replace(EXTEND, num_frames=18, context_frames=0)  # 12 new frames: two clips of six
    again = replace(long, num_frames=12, seed=segment_seed(7, 1))
    assert np.array_equal(film(model, long)[12:], film(model, again)[6:])


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("task", "changes", "named"),
    [
        (TEXT, {"first_frame": ONE}, "'text' with first_frame"),
        (TEXT, {"references": (Reference(ONE),)}, "'text' with references"),
        (IMAGE, {"first_frame": None}, "'image' without first_frame"),
        (BOTH, {"last_frame": None}, "without last_frame"),
        (BOTH, {"last_frame_strength": 1.5}, "last_frame_strength 1.5"),
        (IMAGE, {"first_frame_strength": float("nan")}, "first_frame_strength nan"),
        (REFERENCE, {"references": ()}, "without references"),
        (REFERENCE, {"references": (Reference(ONE),) * 40}, "40 references: 7"),
        (REFERENCE, {"references": (Reference(ONE, role="style"),)}, "'style'"),
        (REFERENCE, {"references": (Reference(ONE, strength=2.0),)}, "strength 2.0"),
        (EXTEND, {"video": None}, "without video"),
        (EXTEND, {"video": SOURCE[:0]}, "without video"),
        (EXTEND, {"num_frames": 6}, "6 frames of a clip that has 6"),
        (EXTEND, {"num_frames": 5000}, "5000 frames: 4096"),
        (EXTEND, {"first_frame": ONE}, "an extension with first_frame"),
        (EXTEND, {"extend_before": True, "last_frame": ONE}, "an extension with last_frame"),
        (EXTEND, {"context_frames": 3}, r"3 context frames: 0\.\.2"),
        (EXTEND, {"context_guidance": 9.0}, r"context guidance 9\.0"),
        (EXTEND, {"reconstruction_weight": -1.0}, "reconstruction weight -1"),
        (STORY, {"shots": ()}, "without shots"),
        (STORY, {"shots": SHOTS * 10, "num_frames": 240}, "30 shots: 16"),
        (STORY, {"num_frames": 25}, "25 frames of shots of 24"),
        (STORY, {"shots": (Shot("x", 2, 1),), "num_frames": 2}, "a shot of 2 frames: 4"),
        (TEXT, {"guidance_rescale": 1.5}, r"rescale 1\.5"),
        (TEXT, {"guidance_schedule": "oscillating"}, "oscillating guidance with dpmpp_2m"),
        (TEXT, {"guidance_schedule": "wild"}, "'wild'"),
    ],
)
def test_what_a_task_may_not_hold_is_refused_at_once(
    model: VideoLDM, task: Task, changes: dict[str, object], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        model.stream(replace(task, **changes), silent)  # type: ignore[arg-type]


def test_untrained_abilities_are_refused(model: VideoLDM) -> None:
    card = replace(model.card, tasks=frozenset({"text", "image", "first_last_frame"}))
    config = replace(model.preset.config, abilities=())
    plain = replace(model, card=card, preset=replace(model.preset, config=config))
    with pytest.raises(ValueError, match="'extend'"):
        plain.stream(EXTEND, silent)
    with pytest.raises(ValueError, match="references: not trained"):
        plain.stream(replace(IMAGE, references=(Reference(ONE),)), silent)
    with pytest.raises(ValueError, match="sketch: not trained"):
        plain.stream(replace(BOTH, last_frame_is_sketch=True), silent)
