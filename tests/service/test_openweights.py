"""Open weights ordered over HTTP: what is admitted is what their models take, no more and no less.

The cards are those of families; their weights are not needed before the queue.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from models.catalog import ModelCard, read_card
from models.openweights.families import FAMILIES, Wishes, adjust, card_fields, read_family
from models.openweights.folder import Checkpoint
from models.openweights.refusals import check
from service.settings import ServiceSettings
from tests.service.conftest import Running, serve
from tests.service.media import data_url, film, picture
from worker.inputs import read_task
from worker.jobs.artifacts import open_store
from worker.jobs.settings import JobSettings

PICTURE = data_url(picture((64, 64), (200, 40, 40)))
NAMED = {"vace": "WanVACEPipeline", "ltx": "LTXConditionPipeline", "wan": "WanPipeline"}
PIPELINES = NAMED | {f"any-{at}": pipeline for at, pipeline in enumerate(FAMILIES)}
STORY = {"shots": [{"prompt": "a cat", "seconds": 1}, {"prompt": "a dog", "seconds": 2}]}
BETWEEN = {"keyframes": [{"frame": 4, "image_url": PICTURE}]}


def card_of(folder: Path, name: str) -> ModelCard:
    """The card of a checkpoint of a family."""
    shape = {"num_layers": 2, "sample_width": 8, "sample_height": 8, "sample_frames": 17}
    parts = {part: {} for part in FAMILIES[PIPELINES[name]][0].needs} | {"transformer": shape}
    checkpoint = Checkpoint(folder, {"_class_name": PIPELINES[name]}, parts, ())
    family = read_family(checkpoint)
    sizes = () if family.exact_sizes else ("64x64",)
    frames = 37 if family.frame_step > 16 else 17
    small = adjust(family, Wishes(sizes=sizes, frames=frames, fps=8))
    path = folder / f"{name}.json"
    path.write_text(json.dumps(card_fields(name, small, checkpoint, "none", 0)))
    return read_card(path)


@pytest.fixture(scope="module")
def open_api(valkey_server, tmp_path_factory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("open")
    settings = ServiceSettings(
        redis_url=SecretStr(valkey_server.url), data_dir=folder, default_model="vace"
    )
    with serve(settings, {name: card_of(folder, name) for name in PIPELINES}) as running:
        yield running


@pytest.fixture
def job_settings(valkey, open_api) -> JobSettings:
    return open_api.settings


@pytest.fixture
def api(valkey, open_api) -> Running:
    return open_api


def order(client, body, clip=None):
    body = {"prompt": "a cat"} | body
    if clip is None:
        return client.post("/v1/videos", json=body)
    plain = {name: one if isinstance(one, str) else json.dumps(one) for name, one in body.items()}
    parts = [(name, (None, value)) for name, value in plain.items()]
    return client.post("/v1/videos", files=[*parts, ("video", ("clip.mp4", clip, "video/mp4"))])


@pytest.fixture
def clip(tmp_path) -> bytes:
    return film(tmp_path / "clip.mp4", frames=17).read_bytes()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (STORY, "story"),
        ({"task_type": "extend", "seconds": "1"}, "extend"),
        ({"mask": PICTURE}, "edit"),
        (BETWEEN, "text"),
        (BETWEEN | {"first_frame": PICTURE, "last_frame": PICTURE}, "first_last_frame"),
        (BETWEEN | {"model": "ltx"}, "text"),
        ({"reference_images": [PICTURE, PICTURE]}, "reference"),
    ],
)
def test_what_is_admitted_is_what_the_model_takes(client, store, job_settings, clip, body, kind):
    answer = order(client, body, clip if kind in ("extend", "edit") else None)
    assert answer.status_code == 200, answer.text
    job = store.get(answer.json()["id"])
    task = read_task(job.request, open_store(job_settings))
    assert task.task_type == kind
    check(task, card_of(job_settings.data_dir, job.request.model))
    assert [keyframe.index for keyframe in task.keyframes] == ([4] if "keyframes" in body else [])
    assert (task.mask is None) == (kind != "edit")


FRAME, LAST = {"first_frame": PICTURE}, {"last_frame": PICTURE}
SHOWN = {"reference_images": [PICTURE]}
ASKED = [
    *({}, FRAME, LAST, FRAME | LAST, SHOWN, FRAME | SHOWN, BETWEEN, BETWEEN | SHOWN, STORY),
    *(FRAME | LAST | {"last_frame_strength": 0.5}, FRAME | {"first_frame_strength": 0.5}),
    *(SHOWN | {"reference_strength": 0.5}, FRAME | BETWEEN, STORY | SHOWN, STORY | FRAME),
    *({"negative_prompt": "rain"}, {"negative_prompt": "rain", "guidance_scale": 1}),
    *({"quality": "fast"}, FRAME | {"quality": "fast"}, {"prompt": "x" * 700}, {"fps": 24}),
]
FIELDS = {"first_frame": "first_frame", "last_frame": "last_frame", "keyframes": "keyframes"}
FIELDS |= {"reference_images": "references", "shots": "shots"}


@pytest.mark.parametrize("name", [name for name in PIPELINES if name not in NAMED])
def test_what_any_family_admits_its_model_takes_all_of(client, store, job_settings, name):
    card, files = card_of(job_settings.data_dir, name), open_store(job_settings)
    made = set()
    for body in ASKED:
        wordless = {} if card.max_prompt_chars else {"prompt": ""}
        answer = order(client, {"model": name} | wordless | body)
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 200:
            task = read_task(store.get(answer.json()["id"]).request, files)
            check(task, card)
            for field in FIELDS.keys() & body.keys():
                assert len(getattr(task, FIELDS[field])), field
            made.add(task.task_type)
    assert made >= card.tasks - {"extend", "edit", "story"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"task_type": "edit"}, "mask"),
        ({"task_type": "edit", "mask": PICTURE, "first_frame": PICTURE}, "first_frame"),
        ({"task_type": "extend", "extend_before": True}, "extend_before"),
        ({"task_type": "extend", "last_frame": PICTURE}, "last_frame"),
    ],
)
def test_what_would_be_ignored_beside_a_clip_is_refused(client, clip, body, param):
    answer = order(client, body, clip)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "wan", "first_frame": PICTURE}, "first_frame"),
        ({"model": "wan"} | STORY, "shots"),
        ({"model": "wan"} | BETWEEN, "keyframes"),
        ({"keyframes": [{"frame": 17, "image_url": PICTURE}]}, "keyframes.0.frame"),
        ({"keyframes": BETWEEN["keyframes"] * 2}, "keyframes.1.frame"),
        ({"keyframes": BETWEEN["keyframes"] * 9}, "keyframes"),
        ({"keyframes": [PICTURE]}, "keyframes.0"),
        (
            {"first_frame": PICTURE, "keyframes": [{"frame": 0, "image_url": PICTURE}]},
            "keyframes.0.frame",
        ),
        ({"shots": [{"prompt": "a cat", "last_frame": PICTURE}]}, "shots.0.last_frame"),
        (
            {"guidance_scale": 1, "shots": [{"prompt": "a cat", "negative_prompt": "rain"}]},
            "shots.0.negative_prompt",
        ),
        ({"model": "ltx", "reference_images": [PICTURE]}, "reference_images"),
        ({"mask": PICTURE}, "mask"),
    ],
)
def test_what_a_checkpoint_would_ignore_is_refused_before_the_queue(client, body, param):
    answer = order(client, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_limits_of_keyframes_and_masks_are_listed(client):
    listed = client.get("/v1/videos/models").json()["data"]
    told = {one["id"]: (one["inputs"]["max_keyframes"], one["inputs"]["masks"]) for one in listed}
    assert {name: told[name] for name in NAMED} == {
        "vace": (8, True),
        "ltx": (8, False),
        "wan": (0, False),
    }
