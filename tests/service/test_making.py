"""`praxino generate` and `follow`: every kind from a command line to the job that was ordered."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import SecretStr
from typer.testing import CliRunner

from models.catalog import AdapterCard
from service.cli import app
from service.display import describe
from service.settings import ServiceSettings
from tests.cards import plain_card
from tests.service.conftest import Running, serve
from tests.service.media import film, picture
from worker.jobs.catalog import TASKS, InputLimits
from worker.jobs.contract import ErrorCode, Progress, Stage
from worker.jobs.settings import JobSettings

runner = CliRunner()


@pytest.fixture(scope="module")
def able_api(valkey_server: Any, tmp_path_factory: Any) -> Iterator[Running]:
    """An API whose model says that it can do everything."""
    card = replace(
        plain_card(),
        id="able",
        tasks=frozenset(TASKS),
        inputs=InputLimits(upscale_factors=(2,), last_frame_sketches=True),
        sizes=("64x64",),
        adapters=(AdapterCard("rex", "sks", "dog", "0" * 64),),
    )
    settings = ServiceSettings(
        redis_url=SecretStr(valkey_server.url),
        data_dir=tmp_path_factory.mktemp("able"),
        default_model="able",
    )
    with serve(settings, {"able": card}) as running:
        yield running


@pytest.fixture
def job_settings(valkey: Any, able_api: Running) -> JobSettings:
    return able_api.settings


@pytest.fixture
def api(valkey: Any, able_api: Running) -> Running:
    return able_api


@pytest.fixture
def studio(tmp_path: Path) -> dict[str, str]:
    """Files to name on a command line."""
    red = tmp_path / "red.png"
    red.write_bytes(picture((64, 64), (220, 30, 30)))
    clip = film(tmp_path / "source.mp4", frames=10)
    return {"RED": str(red), "NAMED": f"fox={red}", "CLIP": str(clip)}


def call(api: Running, *arguments: str) -> Any:
    return runner.invoke(app, [*arguments, "--url", api.url])


KINDS: dict[str, list[str]] = {
    "text": ["a fox", "--seed", "5", "--steps", "3", "--set", "guidance_rescale=0.5"],
    "image": ["--first-frame", "RED", "--first-frame-strength", "0.5"],
    "first_last_frame": [
        *("--first-frame", "RED", "--last-frame", "RED", "--last-frame-strength", "0.25")
    ],
    "reference": ["@fox runs", "--reference", "NAMED", "--reference", "RED"],
    "extend": ["--video", "CLIP", "--extend-before", "--seconds", "1"],
    "story": ["--shot", "a fox", "--shot", '{"prompt": "a dog", "seconds": 1, "seed": 3}'],
    "upscale": ["--video", "CLIP", "--upscale-factor", "2"],
    "interpolate": ["--video", "CLIP", "--target-fps", "24"],
    "edit": ["--task", "edit", "--video", "CLIP", "--last-frame", "RED"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_film_of_every_kind_is_ordered_and_fetched(
    api: Running, hand: Any, store: Any, client: Any, clip: Path, tmp_path: Path,
    studio: dict[str, str], kind: str,
) -> None:  # fmt: skip
    out, sheet = tmp_path / "made" / "fox.mp4", tmp_path / "made" / "fox.png"
    told = [studio.get(word, word) for word in KINDS[kind]]
    with hand.working():
        answer = call(api, "generate", *told, "--out", str(out), "--sheet", str(sheet))
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.splitlines()[-2:] == [str(sheet), str(out)]
    assert out.read_bytes() == clip.read_bytes()
    with Image.open(sheet) as seen:
        assert seen.width > 64
    video = client.get("/v1/videos").json()["data"][0]
    request = store.get(video["id"]).request
    assert request.task_type == kind
    assert video["id"] in answer.stderr
    assert client.get("/v1/files").json()["data"] == []  # nothing is left of what was sent along
    expected: dict[str, tuple[Any, Any]] = {
        "text": (
            (request.seed, request.num_inference_steps, request.guidance_rescale),
            (5, 3, 0.5),
        ),
        "image": ((request.first_frame is not None, request.first_frame_strength), (True, 0.5)),
        "first_last_frame": (request.last_frame_strength, 0.25),
        "reference": ([given.name for given in request.reference_images], ["fox", None]),
        "extend": ((request.extend_before, request.num_frames), (True, 18)),
        "story": ([shot.prompt for shot in request.shots], ["a fox", "a dog"]),
        "upscale": (request.upscale_factor, 2),
        "interpolate": (request.target_fps, 24),
        "edit": (request.last_frame is not None, True),
    }
    found, wanted = expected[kind]
    assert found == wanted


def test_a_drawing_and_a_lora_are_ordered_as_what_they_are(
    api: Running, hand: Any, store: Any, client: Any, tmp_path: Path, studio: dict[str, str]
) -> None:
    frames = ["--first-frame", "RED", "--last-frame", "RED", "--sketch"]
    told = ["a fox", *frames, "--adapter", "rex", "--adapter-scale", "0.5"]
    with hand.working():
        words = [studio.get(word, word) for word in told]
        answer = call(api, "generate", *words, "--out", str(tmp_path / "fox.mp4"))
    assert answer.exit_code == 0, answer.output
    request = store.get(client.get("/v1/videos").json()["data"][0]["id"]).request
    assert (request.task_type, request.last_frame_is_sketch) == ("first_last_frame", True)
    assert (request.adapter, request.adapter_scale) == ("rex", 0.5)


@pytest.mark.parametrize("command", [["follow"], ["generate", "--resume"]])
def test_an_ordered_film_is_found_again_by_its_id(
    api: Running, hand: Any, client: Any, clip: Path, tmp_path: Path, command: list[str]
) -> None:
    made = client.post("/v1/videos", json={"prompt": "a fox"}).json()["id"]
    out = tmp_path / "fox.mp4"
    with hand.working():
        answer = call(api, *command, made, "--out", str(out))
    assert answer.exit_code == 0, answer.output
    assert out.read_bytes() == clip.read_bytes()
    assert [video["id"] for video in client.get("/v1/videos").json()["data"]] == [made]


def test_a_failed_film_says_why(api: Running, hand: Any, client: Any, tmp_path: Path) -> None:
    made = client.post("/v1/videos", json={"prompt": "a fox"}).json()["id"]
    hand.fail(made, ErrorCode.OUT_OF_MEMORY, "The worker has not enough memory.")
    answer = call(api, "follow", made, "--out", str(tmp_path / "fox.mp4"))
    assert answer.exit_code == 1
    assert "out_of_memory: The worker has not enough memory." in answer.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (["--first-frame", "nosuch.png"], ["--first-frame", "nosuch.png"]),
        (["--reference", "fox=nosuch.png"], ["--reference", "nosuch.png"]),
        (["--shot", '{"prompt": '], ["--shot", "JSON"]),
        (["a fox", "--quality", "best"], ["quality", "best"]),
        (["a fox", "--set", "seed=5"], ["--set", "seed=5"]),
        (["a fox", "--set", "mask"], ["--set", "FIELD=VALUE"]),
        (["a fox", "--set", "guidance_rescale=2"], ["guidance_rescale", "1", "2"]),
        (["a fox", "--size", "65x65"], ["size", "64x64"]),
        (["a fox", "--reference", "RED", "--target-fps", "24"], ["target_fps", "interpolate"]),
        ([], ["prompt", "required"]),
        (["--resume", "video_nosuch"], ["video_nosuch"]),
    ],
)
def test_a_refusal_names_what_to_mend(
    api: Running, client: Any, tmp_path: Path, studio: dict[str, str],
    told: list[str], says: list[str],
) -> None:  # fmt: skip
    words = [studio.get(word, word) for word in told]
    answer = call(api, "generate", *words, "--out", str(tmp_path / "x.mp4"))
    assert answer.exit_code == 1, answer.output
    assert all(word in answer.stderr for word in says), answer.stderr
    assert "Traceback" not in answer.output
    assert client.get("/v1/videos").json()["data"] == []
    assert client.get("/v1/files").json()["data"] == []


def test_a_story_says_which_shot_is_made(api: Running, hand: Any, store: Any, client: Any) -> None:
    shots = [{"prompt": "a fox", "seconds": 1}] * 3
    made = client.post("/v1/videos", json={"shots": shots}).json()["id"]
    _, exec = hand.start(made)
    progress = Progress(stage=Stage.DENOISING, step=5, total=9, eta_s=None, shot=1, shot_done=0.5)
    assert store.report(made, exec, progress)
    assert describe(client.get(f"/v1/videos/{made}").json()) == "shot 2/3, denoising"
