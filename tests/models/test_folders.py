"""Registering checkpoints: what a folder says, and what is wrong with it, without loading it."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models.catalog import read_card, read_offer, registered_folder
from models.openweights.__main__ import add, parser, read_lora
from models.openweights.families import FAMILIES, Wishes, hunyuan_sizes
from models.openweights.folder import FolderError

NONE = Wishes()


def part(folder: Path, name: str, config: str, fields: dict[str, Any], weights: bool) -> None:
    """A part of a checkpoint, with a weight file of one number if it has weights."""
    (folder / name).mkdir(parents=True)
    (folder / name / config).write_text(json.dumps(fields))
    if config == "tokenizer_config.json":
        (folder / name / "tokenizer.json").write_text("{}")
    if weights:
        entry = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
        header = json.dumps(entry).encode()
        data = len(header).to_bytes(8, "little") + header + bytes(4)
        stem = "model" if name.startswith("text_encoder") else "diffusion_pytorch_model"
        (folder / name / f"{stem}.safetensors").write_bytes(data)


def write(folder: Path, pipeline: str = "WanPipeline", **index: Any) -> Path:
    """A checkpoint's layout with a number for weights. Keywords go into the index."""
    transformer = index.pop("transformer", {})
    parts = {
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    folder.mkdir(parents=True)
    whole = {"_class_name": pipeline, "_diffusers_version": "0.35.0"} | parts | index
    (folder / "model_index.json").write_text(json.dumps(whole))
    part(folder, "scheduler", "scheduler_config.json", {}, weights=False)
    part(folder, "tokenizer", "tokenizer_config.json", {}, weights=False)
    for name in ("text_encoder", "transformer", "vae"):
        part(
            folder, name, "config.json", transformer if name == "transformer" else {}, weights=True
        )
    return folder


def register(folder: Path, wishes: Wishes = NONE, name: str = "wild") -> Any:
    """The card of a checkpoint that was added."""
    models_dir = folder.parent / "models"
    shutil.rmtree(models_dir, ignore_errors=True)
    add(name, folder, models_dir, wishes, None)
    return read_card(models_dir / name / "card.json")


def test_a_whole_folder_becomes_a_card_on_offer(tmp_path: Path) -> None:
    card = register(write(tmp_path / "w"))
    assert (card.kind, card.tasks) == ("openweights", {"text"})
    assert (card.sizes[0], card.default_frames, card.fps) == ("832x480", 81, (16,))
    assert set(read_offer(tmp_path)) == {"pocket", "wild"}
    assert registered_folder(tmp_path, "wild") == tmp_path / "models" / "wild"
    assert registered_folder(tmp_path, "pocket") is None


def test_tasks_are_told_from_the_configs(tmp_path: Path) -> None:
    told = {}
    tower = {"image_dim": 1280}
    encoder = ["transformers", "CLIPVisionModel"]
    towers = {"image_encoder": encoder, "image_processor": ["transformers", "CLIPImageProcessor"]}
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "5b": ("WanPipeline", {"expand_timesteps": True}),
        "5b-i2v": ("WanImageToVideoPipeline", {"expand_timesteps": True}),
        "a14b": ("WanImageToVideoPipeline", {"boundary_ratio": 0.9}),
        "i2v": ("WanImageToVideoPipeline", {"transformer": tower, **towers}),
        "flf2v": (
            "WanImageToVideoPipeline",
            {"transformer": tower | {"pos_embed_seq_len": 514}, **towers},
        ),
        "ltx": ("LTXConditionPipeline", {}),
        "ltx-t2v": ("LTXPipeline", {}),
    }
    for name, (pipeline, index) in cases.items():
        if name == "a14b":
            index["transformer_2"] = ["diffusers", "WanTransformer3DModel"]
        folder = write(tmp_path / name, pipeline, **index)
        if name == "a14b":
            shutil.copytree(folder / "transformer", folder / "transformer_2")
        if "image_encoder" in index:
            part(folder, "image_encoder", "config.json", {}, weights=True)
            part(folder, "image_processor", "preprocessor_config.json", {}, weights=False)
        told[name] = sorted(register(folder).tasks)
    assert told == {
        "5b": ["extend", "image", "story", "text"],
        "5b-i2v": ["extend", "image"],
        "a14b": ["extend", "first_last_frame", "image"],
        "i2v": ["extend", "image"],
        "flf2v": ["first_last_frame"],
        "ltx": ["extend", "first_last_frame", "image", "story", "text"],
        "ltx-t2v": ["text"],
    }


def test_sizes_and_lengths_are_told_from_the_configs(tmp_path: Path) -> None:
    five = register(write(tmp_path / "5b", expand_timesteps=True))
    assert all(int(side) % 32 == 0 for size in five.sizes for side in size.split("x"))
    assert (five.default_frames, five.fps) == (121, (24,))
    shape = {"sample_width": 170, "sample_height": 96, "sample_frames": 81, "patch_size_t": 2}
    cog = register(write(tmp_path / "cog", "CogVideoXPipeline", transformer=shape))
    assert (cog.sizes, cog.default_frames, cog.fps) == (("1360x768",), 81, (16,))


def test_hunyuan_sizes_are_those_that_its_pipeline_picks() -> None:
    from diffusers.pipelines.hunyuan_video1_5.image_processor import HunyuanVideo15ImageProcessor

    picker = HunyuanVideo15ImageProcessor()
    for square in (480, 640, 960):
        sizes = hunyuan_sizes(square)
        assert len(sizes) == 3
        for width, height in sizes:
            picked = picker.calculate_default_height_width(height, width, square)
            assert tuple(picked) == (height, width)


def test_every_driven_pipeline_is_one_of_diffusers() -> None:
    import diffusers

    assert all(hasattr(diffusers, name) for name in FAMILIES)


def damage(folder: Path, fault: str) -> str:
    """Break a checkpoint in a way; returns what the refusal must name."""
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    if fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
        return "transformer.*bytes"
    if fault == "pickled":
        weights.rename(weights.with_suffix(".bin"))
        return "transformer.*no weights"
    if fault == "a part":
        shutil.rmtree(folder / "text_encoder")
        return "text_encoder"
    if fault == "an entry":
        index = json.loads((folder / "model_index.json").read_text())
        index.pop("vae")
        (folder / "model_index.json").write_text(json.dumps(index))
        return "vae"
    if fault == "a shard":
        shards = {"weight_map": {"a": "one.safetensors"}}
        index_file = folder / "vae" / "diffusion_pytorch_model.safetensors.index.json"
        index_file.write_text(json.dumps(shards))
        return r"one\.safetensors"
    if fault == "all shards":
        (folder / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
        return "vae.*names no weight files"
    if fault == "a weight":
        vae = folder / "vae"
        (vae / "diffusion_pytorch_model.safetensors").rename(vae / "one.safetensors")
        shards = {"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}
        index_file = vae / "diffusion_pytorch_model.safetensors.index.json"
        index_file.write_text(json.dumps(shards))
        return r"one\.safetensors: lacks b,"
    if fault == "words":
        (folder / "tokenizer" / "tokenizer.json").unlink()
        return "tokenizer: has no vocabulary"
    if fault == "foreign code":
        index = json.loads((folder / "model_index.json").read_text())
        index["vae"] = ["their_code", "TheirVae"]
        (folder / "model_index.json").write_text(json.dumps(index))
        return "their_code"
    (folder / "model_index.json").unlink()
    return "model_index.json"


FAULTS = (
    "truncated",
    "pickled",
    "a part",
    "an entry",
    "a shard",
    "all shards",
    "a weight",
    "words",
)


@pytest.mark.parametrize("fault", [*FAULTS, "foreign code", "index"])
def test_a_partial_folder_is_refused_with_what_is_missing(tmp_path: Path, fault: str) -> None:
    folder = write(tmp_path / "w")
    expected = damage(folder, fault)
    with pytest.raises(FolderError, match=expected):
        register(folder)
    assert not (tmp_path / "models" / "wild").exists()


def test_an_unknown_pipeline_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="'MochiPipeline' is none of AnimateDiff"):
        register(write(tmp_path / "w", "MochiPipeline"))


def test_defaults_may_be_set_within_what_the_checkpoint_takes(tmp_path: Path) -> None:
    folder = write(tmp_path / "w")
    card = register(folder, Wishes(("640x384",), 33, 20, 4.0, 24))
    assert (card.sizes[0], card.default_frames, card.fps[0]) == ("640x384", 33, 24)
    assert (card.steps.default, card.guidance.default) == (20, 4.0)
    for wrong in (
        Wishes(sizes=("650x384",)),
        Wishes(sizes=("wide",)),
        Wishes(frames=34),
        Wishes(frames=0),
        Wishes(steps=0),
        Wishes(guidance=0.0),
        Wishes(steps=1000),
        Wishes(guidance=0.5),
        Wishes(fps=1000),
    ):
        with pytest.raises(FolderError, match=r"size|frames|steps|guidance|fps"):
            register(folder, wrong)


def test_films_are_no_longer_than_a_network_with_places_in_time_can_see(tmp_path: Path) -> None:
    folder = animated(tmp_path / "w")
    assert register(folder).frames.maximum == 32
    with pytest.raises(FolderError, match="frames 33: 32 at most"):
        register(folder, Wishes(frames=33))
    module = folder / "motion_adapter" / "config.json"
    module.write_text(json.dumps({"motion_max_seq_length": 12}))
    card = register(folder)
    assert (card.frames.maximum, card.default_frames) == (12, 12)
    assert register(write(tmp_path / "wan"), Wishes(frames=161)).frames.maximum == 161


def test_a_name_is_plain_and_free(tmp_path: Path) -> None:
    folder = write(tmp_path / "w")
    for name in ("pocket", "../up", "Wan", ""):
        with pytest.raises(ValueError, match="name"):
            register(folder, name=name)
    add("one", folder, tmp_path / "models", NONE, None)
    with pytest.raises(ValueError, match="taken"):
        add("one", folder, tmp_path / "models", NONE, None)
    (tmp_path / "models" / "two" / "notes").mkdir(parents=True)  # somebody else's
    with pytest.raises(OSError, match="two"):
        add("two", folder, tmp_path / "models", NONE, None)
    assert [path.name for path in (tmp_path / "models" / "two").iterdir()] == ["notes"]


def test_the_licence_is_what_the_folder_says(tmp_path: Path) -> None:
    folder = write(tmp_path / "w")
    assert register(folder).licence == "unknown"
    (folder / "LICENSE").write_text("Be kind.")
    assert register(folder).licence == "see its LICENSE"
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert register(folder).licence == "apache-2.0"
    named = "---\nlicense: other\nlicense_name: kind-people\nlicense_link: LICENSE\n---\n"
    (folder / "README.md").write_text(named)
    assert register(folder).licence == "kind-people"


def test_whoever_registers_is_shown_the_licence_and_has_accepted_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "w")
    told = add("bare", folder, tmp_path / "models", NONE, None)
    assert "licence: unknown (the folder holds none: ask its authors)" in told
    (folder / "LICENSE").write_text("Be kind.")
    told = add("kind", folder, tmp_path / "models", NONE, None)
    assert f"licence: see its LICENSE ({folder / 'LICENSE'}); who registers it accepts it" in told
    note = json.loads((tmp_path / "models" / "kind" / "checkpoint.json").read_text())["licence"]
    assert note["sha256"] == hashlib.sha256(b"Be kind.").hexdigest()
    assert abs(note["accepted"] - time.time()) < 60


def cached(cache: Path, repo: str, commit: str = "a" * 40) -> Path:
    """A place for a checkpoint in a hub's cache, named as its client names it."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    (place / "snapshots").mkdir()
    return place / "snapshots" / commit


NOWHERE = "http://127.0.0.1:9"  # whatever is asked of it is refused at once


def ordered(
    tmp_path: Path, *arguments: str, hub: str = NOWHERE
) -> subprocess.CompletedProcess[str]:
    """`praxino models add wild` with these options, in a process with a hub's cache of its own."""
    place = ("--models-dir", str(tmp_path / "models"))
    command = (sys.executable, "-m", "models.openweights", "wild", *arguments, *place)
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HUB_CACHE": str(tmp_path / "cache")}
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_hub_id_is_found_in_the_cache_and_its_commit_noted(tmp_path: Path) -> None:
    folder = write(cached(tmp_path / "cache", "owner/wan"))
    answer = ordered(tmp_path, "--hub", "owner/wan")
    assert answer.returncode == 0, answer.stderr
    note = json.loads((tmp_path / "models" / "wild" / "checkpoint.json").read_text())
    assert (note["hub"], note["revision"]) == ("owner/wan", "a" * 40)
    assert Path(note["folder"]) == folder


def test_a_hub_id_that_is_not_cached_is_refused_offline_and_asked_for_online(
    tmp_path: Path,
) -> None:
    answer = ordered(tmp_path, "--hub", "owner/wan")
    assert answer.returncode == 1
    assert "owner/wan: is not in the local cache" in answer.stderr
    assert "--online" in answer.stderr
    answer = ordered(tmp_path, "--hub", "owner/wan", "--online")
    assert answer.returncode == 1
    assert "owner/wan: cannot be fetched" in answer.stderr
    assert not (tmp_path / "models" / "wild").exists()


@contextmanager
def hub_of(folder: Path, asked: list[str]) -> Iterator[str]:
    """A hub with one checkpoint, by its address; notes the files that are fetched."""
    commit, files = "b" * 40, [path for path in folder.rglob("*") if path.is_file()]
    tree = [
        {"type": "file", "path": path.relative_to(folder).as_posix(), "size": size, "oid": f"{at}"}
        for at, (path, size) in enumerate((path, path.stat().st_size) for path in files)
    ]

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            path = folder / self.path.partition(f"/resolve/{commit}/")[2]
            self.send_response(200)
            self.send_header("ETag", f'"{path.stat().st_ino}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", str(path.stat().st_size))
            self.end_headers()

        def do_GET(self) -> None:
            if "/resolve/" in self.path:
                self.do_HEAD()
                name = self.path.partition(f"/resolve/{commit}/")[2]
                asked.append(name)
                self.wfile.write((folder / name).read_bytes())
                return
            answer = tree if "/tree/" in self.path else {"id": "owner/wan", "sha": commit}
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_of_a_hub_id_only_what_is_loaded_is_fetched(tmp_path: Path) -> None:
    folder = write(tmp_path / "w")
    for name in ("all-in-one.safetensors", "vae/model.bin", "vae/code.py", "demo/x.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"a lot")
    for rounded in (".fp16", "-00001-of-00002.fp16"):
        (folder / "vae" / f"diffusion_pytorch_model{rounded}.safetensors").write_bytes(b"a lot")
    (folder / "LICENSE").write_text("Be kind.")
    asked: list[str] = []
    with hub_of(folder, asked) as hub:
        answer = ordered(tmp_path, "--hub", "owner/wan", "--online", hub=hub)
    assert answer.returncode == 0, answer.stderr
    weights = [f"{part}/diffusion_pytorch_model.safetensors" for part in ("transformer", "vae")]
    configs = [f"{part}/config.json" for part in ("text_encoder", "transformer", "vae")]
    words = ["tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]
    others = ["text_encoder/model.safetensors", "scheduler/scheduler_config.json", "LICENSE"]
    expected = [*weights, *configs, *words, *others, "model_index.json"]
    assert sorted(asked) == sorted(expected)
    note = json.loads((tmp_path / "models" / "wild" / "checkpoint.json").read_text())
    assert (note["hub"], note["revision"]) == ("owner/wan", "b" * 40)
    (tmp_path / "models").rename(tmp_path / "before")
    assert ordered(tmp_path, "--hub", "owner/wan").returncode == 0, "it is in the cache now"


def test_a_hub_id_that_is_cached_in_part_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    folder = write(cached(tmp_path / "cache", "owner/wan"))
    shutil.rmtree(folder / "vae")
    answer = ordered(tmp_path, "--hub", "owner/wan")
    assert answer.returncode == 1
    assert "vae: is missing" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--hub", "wan"), "owner/name"),
        (("--path", "w", "--online"), "not about --path"),
        (("--path", "w", "--hub", "owner/wan"), "not allowed with"),
        ((), "one of the arguments"),
    ],
)
def test_a_checkpoint_has_one_source(
    tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    answer = ordered(tmp_path, *arguments)
    assert answer.returncode != 0
    assert reason in answer.stderr


def animated(folder: Path, *adapters: str) -> Path:
    """An AnimateDiff checkpoint with an image tower, and IP-Adapters beside it."""
    parts = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "unet": ["diffusers", "UNetMotionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "motion_adapter": ["diffusers", "MotionAdapter"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    }
    folder.mkdir(parents=True)
    index = {"_class_name": "AnimateDiffPipeline"} | parts
    (folder / "model_index.json").write_text(json.dumps(index))
    for name in parts:
        bare = {"scheduler": "scheduler", "tokenizer": "tokenizer"}.get(name)
        bare = "preprocessor" if name == "feature_extractor" else bare
        config = f"{bare}_config.json" if bare else "config.json"
        part(folder, name, config, {}, weights=bare is None)
    for name in adapters:
        (folder / "ip_adapter").mkdir(exist_ok=True)
        keys = ("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight")
        save_file({key: np.ones(1, np.float32) for key in keys}, folder / "ip_adapter" / name)
    return folder


def test_an_ip_adapter_beside_the_parts_makes_references(tmp_path: Path) -> None:
    assert register(animated(tmp_path / "bare")).tasks == {"text"}
    card = register(animated(tmp_path / "one", "subject.safetensors"))
    assert card.tasks == {"text", "reference"}
    assert (card.inputs.reference_strength.minimum, card.inputs.max_references) == (0, 4)
    two = animated(tmp_path / "two", "a.safetensors", "b.safetensors")
    with pytest.raises(FolderError, match="holds 2 safetensors files"):
        register(two)
    (two / "ip_adapter" / "b.safetensors").unlink()
    lora(two / "ip_adapter" / "a.safetensors")
    with pytest.raises(FolderError, match=r"a\.safetensors: is no IP-Adapter: holds no image_proj"):
        register(two)
    (two / "ip_adapter" / "a.safetensors").unlink()
    animated(tmp_path / "three", "a.safetensors")
    shutil.copy(tmp_path / "three" / "ip_adapter" / "a.safetensors", two / "ip_adapter")
    shutil.rmtree(two / "image_encoder")
    with pytest.raises(FolderError, match="image_encoder"):
        register(two)


def test_registering_loads_no_torch(tmp_path: Path) -> None:
    folder = write(tmp_path / "w")
    code = (
        "import sys; from models.openweights.__main__ import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else status)"
    )
    arguments = ("wild", "--path", str(folder), "--models-dir", str(tmp_path / "models"))
    command = (sys.executable, "-c", code, *arguments)
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "wild is registered" in answer.stdout


def lora(path: Path, key: str = "transformer.blocks.0.attn1.to_q.lora_A.weight") -> Path:
    """A file of one low-rank matrix."""
    save_file({key: np.ones((2, 2), np.float32)}, path)
    return path


def test_loras_are_copied_beside_the_card_which_names_them(tmp_path: Path) -> None:
    folder, file = write(tmp_path / "w"), lora(tmp_path / "l.safetensors")
    add("wild", folder, tmp_path / "models", NONE, None, [read_lora(f"noir:n0ir={file}")])
    file.unlink()
    (found,) = read_card(tmp_path / "models" / "wild" / "card.json").adapters
    assert (found.id, found.word, found.kind) == ("noir", "n0ir", "LoRA")
    copied = load_file(tmp_path / "models" / "wild" / "adapters" / "noir.safetensors")
    assert all(np.array_equal(value, np.ones((2, 2))) for value in copied.values())


def test_a_lora_is_refused_where_none_can_work(tmp_path: Path) -> None:
    folder, good = write(tmp_path / "w"), lora(tmp_path / "l.safetensors")
    other = lora(tmp_path / "other.safetensors", "transformer.norm.weight")
    part_of_one = tmp_path / "part.safetensors"
    part_of_one.write_bytes(good.read_bytes()[:-1])
    for files, reason in (
        ([other], "low-rank"),
        ([part_of_one], "fetch it again"),
        ([good, good], "twice"),
        ([folder], "directory"),
    ):
        with pytest.raises(ValueError, match=reason):
            add("wild", folder, tmp_path / "m", NONE, None, [("a", "", file) for file in files])
    two = write(tmp_path / "two", boundary_ratio=0.9, transformer_2=["diffusers", "Wan"])
    shutil.copytree(two / "transformer", two / "transformer_2")
    with pytest.raises(ValueError, match="takes none"):
        add("wild", two, tmp_path / "m", NONE, None, [("a", "", good)])
    for text in ("noir", "=f", "No:ir=f"):
        with pytest.raises(ValueError, match="--lora"):
            read_lora(text)
    assert not (tmp_path / "m" / "wild").exists()


PAGES = sorted((Path(__file__).parents[2] / "docs" / "models").glob("*.md"))


def test_every_family_has_a_page_whose_commands_are_ours() -> None:
    titles = {title.split(" ")[0] for title in (family.title for family, _ in FAMILIES.values())}
    heads = " ".join(page.read_text(encoding="utf-8").splitlines()[0] for page in PAGES)
    assert [title for title in titles if title not in heads] == []
    for page in PAGES:
        orders = re.findall(r"^\$ praxino models add (.*)$", page.read_text(), re.MULTILINE)
        assert orders, page
        for order in orders:
            options = parser().parse_args([*shlex.split(order), "--models-dir", "m"])
            assert options.hub or str(options.path).startswith("/srv/"), page
