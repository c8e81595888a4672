"""What no worker can make is refused before the queue, with the largest that can be made."""

import re
import time
from dataclasses import replace

import pytest

from service.outlook import FRESH_S
from tests.cards import plain_card
from worker.jobs.catalog import CostCurve
from worker.jobs.costs import Sample, Shape
from worker.jobs.outcomes import Serving, WorkerInfo

PROMPT = "a red fox walks to the left"
CURVE = CostCurve(
    lead_s=0, pass_s=0, pass_s_per_volume=10, tail_s=0, tail_s_per_volume=0,
    memory_mb=100, memory_mb_per_volume=1000,
)  # fmt: skip


@pytest.fixture
def cards():
    pocket = plain_card()
    sizes = ("64x64", "128x128", "256x256")
    return {"pocket": replace(pocket, sizes=sizes, cost=CURVE)}


def staff(store, memory_mb, name="w", gpu_class=""):
    """A worker that measured one clip of 64x64 and 16 frames exactly as declared."""
    shape = Shape(task_type="text", width=64, height=64, num_frames=16, passes=2)
    sample = Sample(
        shape=shape,
        lead_s=0,
        step_s=CURVE.step_s(shape.volume, 2),
        tail_s=0,
        peak_mb=100 + 1000 * shape.volume,
        jobs=1,
    )
    info = WorkerInfo(
        name=name,
        model="pocket",
        state="idle",
        pid=1,
        gpu_class=gpu_class,
        serving=(Serving(model="pocket", samples=(sample,), memory_mb=memory_mb),),
    )
    store.put_worker(info, ttl_s=60)


def create(client, **fields):
    return client.post("/v1/videos", json={"prompt": PROMPT} | fields)


def refused(answer, param):
    """The largest value that the refusal names."""
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", param)
    return re.search(r"largest that fits is (\S+)$", error["message"])[1]


@pytest.mark.parametrize(("field", "param"), [("num_frames", "num_frames"), ("seconds", "seconds")])
def test_too_much_memory_names_the_length_that_fits(serving, cards, store, field, param):
    staff(store, memory_mb=1000)  # 0.9 megapixels of film: 13 frames of 256x256
    with serving(cards=cards).client() as client:
        asked = {"num_frames": 32} if field == "num_frames" else {"seconds": 4}
        largest = refused(create(client, size="256x256", **asked), param)
        assert float(largest) == (13 if field == "num_frames" else 13 / 8)
        assert create(client, size="256x256", **{field: largest}).status_code == 200
        assert store.depth("pocket") == 1


def test_memory_for_no_length_at_all_names_the_size(serving, cards, store):
    staff(store, memory_mb=400)  # less than 8 frames of 256x256
    with serving(cards=cards).client() as client:
        assert refused(create(client, size="256x256", num_frames=16), "size") == "128x128"
        assert create(client, size="128x128", num_frames=16).status_code == 200


def test_too_long_a_run_names_what_fits(serving, cards, store):
    staff(store, memory_mb=None)
    with serving(cards=cards, job_timeout_s=100).client() as client:
        body = {"size": "256x256", "num_frames": 8, "num_inference_steps": 100}
        # 0.52 megapixels, 10.5 s a guided step: 9 steps
        assert refused(create(client, **body), "num_inference_steps") == "9"
        assert create(client, **body | {"num_inference_steps": 9}).status_code == 200


def test_one_worker_that_can_is_enough(serving, cards, store):
    staff(store, memory_mb=100, name="small")
    staff(store, memory_mb=10_000, name="large")
    with serving(cards=cards).client() as client:
        assert create(client, size="256x256", num_frames=32).status_code == 200


def test_nothing_is_refused_while_nobody_measured(serving, cards, store):
    with serving(cards=cards, job_timeout_s=0.001).client() as client:
        assert create(client, size="256x256", num_frames=32).status_code == 200
        told = (Serving(model="pocket", memory_mb=1),)
        store.put_worker(
            WorkerInfo(name="w", model="pocket", state="idle", pid=1, serving=told), 60
        )
        time.sleep(FRESH_S)
        assert create(client, size="256x256", num_frames=32).status_code == 200


# Workers of several classes


def test_a_request_that_some_workers_cannot_make_goes_to_the_smallest_class_that_can(
    serving, cards, store
):
    for name, memory_mb in (("small", 400), ("large", 4000), ("huge", 40_000)):
        staff(store, memory_mb=memory_mb, name=name, gpu_class=name)
    with serving(cards=cards, gpu_classes=("small", "large", "huge")).client() as client:
        videos = [
            create(client, size="256x256", num_frames=32),
            create(client, size="64x64"),
            create(client, size="64x64", gpu_class="huge"),
        ]
    assert [store.get(each.json()["id"]).gpu_class for each in videos] == ["large", "", "huge"]
    assert [each.json()["gpu_class"] for each in videos] == ["large", None, "huge"]


def test_what_the_class_asked_for_cannot_make_is_refused(serving, cards, store):
    staff(store, memory_mb=1000, name="small", gpu_class="small")
    staff(store, memory_mb=10_000, name="large", gpu_class="large")
    with serving(cards=cards, gpu_classes=("small", "large")).client() as client:
        asked = {"size": "256x256", "num_frames": 32}
        assert refused(create(client, **asked, gpu_class="small"), "num_frames") == "13"
        assert create(client, **asked, gpu_class="large").status_code == 200


@pytest.mark.parametrize(("classes", "told"), [(("small", "large"), "small, large"), ((), "no cl")])
def test_a_class_that_is_not_there_is_refused_with_those_that_are(serving, cards, classes, told):
    with serving(cards=cards, gpu_classes=classes).client() as client:
        answer = create(client, gpu_class="hüge")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "gpu_class")
    assert "hüge" in error["message"]
    assert told in error["message"]


def test_unknown_fields_are_told_as_warnings_where_so_set(serving):
    with serving(unknown_fields="warn").client() as client:
        video = create(client, motion_bucket_id=127, tau=25).json()
        assert len(video["warnings"]) == 2
        assert "motion_bucket_id" in video["warnings"][0]
        assert "last_frame_strength" in video["warnings"][1]
        assert client.get(f"/v1/videos/{video['id']}").json()["warnings"] == video["warnings"]
        assert create(client, num_frames=7).status_code == 400
    with serving().client() as client:
        assert create(client, motion_bucket_id=127).status_code == 400
