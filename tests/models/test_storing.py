"""Denoisers whose weights are stored small, as eight-bit integers or in a GGUF file: what they
make, what they hold, and what is said where they cannot be had."""

import inspect
import re
import shutil
import struct
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.openweights.__main__ import add, read_packed
from models.openweights.adapter import Adapter
from models.openweights.families import FAMILIES, Wishes
from models.openweights.folder import FolderError, read_checkpoint
from models.openweights.gguf import BLOCKS, expected_bytes
from models.openweights.loading import load_pipeline
from models.openweights.memory import Place, put, sizes_of
from models.openweights.pipeline import OpenModel
from models.openweights.plan import Plan
from models.openweights.progress import DENOISERS
from models.openweights.snapshots import FilmMemory
from models.protocol import Cancelled, Step, Task
from models.registry import load_model
from tests.models.wilds import FRAMES, LENGTHS, WILDS, build, save, save_lora, wan, wan_denoiser

# Of diffusers' own making: a scheduler hands a tensor to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS = 4
WIDE: dict[str, Any] = {"attention_head_dim": 32, "ffn_dim": 128}  # blocks of 32 numbers fit
# Names of parts in the files that are published, in the order in which they are looked for.
PUBLISHED = {
    "wan": {
        "condition_embedder.time_embedder.linear_1": "time_embedding.0",
        "condition_embedder.time_embedder.linear_2": "time_embedding.2",
        "condition_embedder.text_embedder.linear_1": "text_embedding.0",
        "condition_embedder.text_embedder.linear_2": "text_embedding.2",
        "condition_embedder.time_proj": "time_projection.1",
        "attn1": "self_attn",
        "attn2": "cross_attn",
        ".to_out.0.": ".o.",
        ".to_q.": ".q.",
        ".to_k.": ".k.",
        ".to_v.": ".v.",
        "ffn.net.0.proj": "ffn.0",
        "ffn.net.2": "ffn.2",
        "norm2": "norm3",
        "proj_out": "head.head",
    },
    "ltx": {
        "proj_in": "patchify_proj",
        "time_embed": "adaln_single",
        "norm_q": "q_norm",
        "norm_k": "k_norm",
    },
    "ltx-2": {
        "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
        "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
        "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
        "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
        "video_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_video",
        "audio_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_audio",
        "proj_in": "patchify_proj",
        "time_embed": "adaln_single",
        "norm_q": "q_norm",
        "norm_k": "k_norm",
    },
    "hunyuan": {
        "context_embedder.time_text_embed.timestep_embedder.linear_1": "txt_in.t_embedder.mlp.0",
        "context_embedder.time_text_embed.timestep_embedder.linear_2": "txt_in.t_embedder.mlp.2",
        "context_embedder.time_text_embed.text_embedder": "txt_in.c_embedder",
        "context_embedder.proj_in": "txt_in.input_embedder",
        "context_embedder.token_refiner.refiner_blocks": "txt_in.individual_token_refiner.blocks",
        "0.norm_out.linear": "0.adaLN_modulation.1",
        "time_text_embed.timestep_embedder.linear_1": "time_in.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "time_in.mlp.2",
        "time_text_embed.guidance_embedder.linear_1": "guidance_in.mlp.0",
        "time_text_embed.guidance_embedder.linear_2": "guidance_in.mlp.2",
        "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
        "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        "x_embedder": "img_in",
    },
}
# Of Hunyuan's blocks. Its single blocks keep their names: a reader splits those of the published
# width only, see `test_hunyuans_single_blocks_are_read_at_their_width`.
DOUBLE = {
    "attn.norm_added_q": "txt_attn_q_norm",
    "attn.norm_added_k": "txt_attn_k_norm",
    "attn.norm_q": "img_attn_q_norm",
    "attn.norm_k": "img_attn_k_norm",
    "attn.to_out.0": "img_attn_proj",
    "attn.to_add_out": "txt_attn_proj",
    "norm1_context.linear": "txt_mod.linear",
    "norm1.linear": "img_mod.linear",
    "ff_context.net.0.proj": "txt_mlp.fc1",
    "ff_context.net.2": "txt_mlp.fc2",
    "ff.net.0.proj": "img_mlp.fc1",
    "ff.net.2": "img_mlp.fc2",
    "attn.to_qkv": "img_attn_qkv",
    "attn.add_qkv_proj": "txt_attn_qkv",
}
REFINER = {
    "attn.to_out.0": "self_attn_proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
    "attn.to_qkv": "self_attn_qkv",
}


def wide_wan() -> Any:
    return diffusers.WanPipeline(
        **wan(**WIDE), transformer_2=wan_denoiser(16, **WIDE), boundary_ratio=0.875
    )


KINDS: dict[str, Callable[[], Any]] = {"wan": wide_wan, "ltx": WILDS["ltx"]}


@dataclass
class Stored:
    """A checkpoint on disk, with GGUF files of its denoisers, and the exact model."""

    name: str
    folder: Path
    packed: dict[str, Path]
    exact: OpenModel

    def register(self, name: str, **named: Any) -> Path:
        models_dir = self.folder.parent / "models"
        wishes = Wishes(("32x32",), length(self.name), STEPS, 3.0, None)
        add(name, self.folder, models_dir, wishes, None, **named)
        return models_dir / name

    def load(self, way: str) -> OpenModel:
        """As `int8` or `gguf`, anew."""
        shutil.rmtree(self.folder.parent / "models" / way, ignore_errors=True)
        packed = self.packed if way == "gguf" else {}
        card = self.register(way, packed=packed)
        return loaded(way, card, "int8" if way == "int8" else "auto")


def loaded(name: str, card: Path, dtype: str = "auto") -> OpenModel:
    model = load_model(name, card, "cpu", dtype)
    assert isinstance(model, OpenModel)
    return model


def length(name: str) -> int:
    return LENGTHS.get(name, FRAMES)


def published(name: str, key: str) -> str:
    if name == "wan" and key == "scale_shift_table":
        return "head.modulation"
    for ours, theirs in PUBLISHED[name].items():
        key = key.replace(ours, theirs)
    return key.replace("scale_shift_table", "modulation") if name == "wan" else key


def published_hunyuan(network: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Its weights as they are published: queries, keys and values in one, and the last modulation
    with its halves the other way round."""
    found = {}
    for key, weight in network.items():
        if "single_transformer_blocks" in key:
            found[key] = weight
        elif key.startswith("norm_out.linear"):
            found[published("hunyuan", key)] = torch.cat(weight.chunk(2)[::-1])
        elif not re.search(r"to_[kv]\.|add_[kv]_proj", key):
            joined = re.sub(r"(to|add)_q(?=\.|_proj)", r"\1_qkv", key)
            if joined != key:
                others = [re.sub(r"(to|add)_q(?=\.|_proj)", rf"\1_{part}", key) for part in "kv"]
                weight = torch.cat([weight, *(network[other] for other in others)])
            names = DOUBLE if key.startswith("transformer_blocks") else REFINER
            for ours, theirs in names.items():
                joined = joined.replace(ours, theirs)
            joined = re.sub(r"^transformer_blocks", "double_blocks", published("hunyuan", joined))
            found[re.sub(r"^proj_out", "final_layer.linear", joined)] = weight
    return found


def write_gguf(name: str, weights: Path, file: Path) -> Path:
    """A network in eight bits and 32 bits, under the names that are published."""
    writer = gguf.GGUFWriter(file, name)
    writer.add_string("general.name", "a fox")
    writer.add_array("general.tags", ["video", "tiny"])
    network = load_file(weights)
    if name == "hunyuan":
        network = published_hunyuan(network)
    else:
        network = {published(name, key): weight for key, weight in network.items()}
    for key, weight in network.items():
        data = weight.numpy()
        kind = gguf.GGMLQuantizationType.F32
        if weight.dim() == 2 and weight.shape[1] % 32 == 0 and "table" not in key:
            kind = gguf.GGMLQuantizationType.Q8_0
            data = gguf.quants.quantize(data, kind)
        writer.add_tensor(key, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module", params=KINDS)
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    base = tmp_path_factory.mktemp("stored")
    torch.manual_seed(0)
    pipe = KINDS[request.param]()
    save(pipe, base / "weights")
    save_lora(pipe, base)
    packed = {
        name: write_gguf(
            request.param,
            base / "weights" / name / "diffusion_pytorch_model.safetensors",
            base / f"{name}-Q8_0.gguf",
        )
        for name in DENOISERS
        if (base / "weights" / name).is_dir()
    }
    found = Stored(request.param, base / "weights", packed, None)  # type: ignore[arg-type]
    found.exact = loaded("exact", found.register("exact"))
    return found


def silent(step: Step) -> None:
    """Nobody asks."""


def draw(model: OpenModel, **fields: Any) -> np.ndarray:
    return model.draw(task_of(model, **fields), silent)


def task_of(model: OpenModel, **fields: Any) -> Task:
    rate, frames = model.card.fps[0], model.card.default_frames
    task = Task("text", "a red fox", "rain", 32, 32, frames, rate, 7, STEPS, 3.0, "native")
    return replace(task, **fields)


def held(model: OpenModel) -> int:
    return sum(sizes_of(model.place.pipe, 1).denoisers)


@pytest.mark.parametrize("way", ["int8", "gguf"])
def test_a_small_denoiser_makes_nearly_the_film_of_the_exact_one_and_goes_on_to_the_same(
    stored: Stored, way: str
) -> None:
    small = stored.load(way)
    film = draw(small)
    difference = float(np.abs(draw(stored.exact) - film).mean())
    assert 0 < difference < 0.01
    assert held(small) < 0.5 * held(stored.exact)  # of 32 bits; norms and embeddings stay
    sizes = sizes_of(small.place.pipe, 1)
    assert sizes.block < 0.5 * sizes_of(stored.exact.place.pipe, 1).block
    assert np.array_equal(draw(small), film)
    assert np.array_equal(resumed(small), film), "gone on with from a checkpoint, it is another"
    foreign = stored.exact.remember("a film").write()
    with pytest.raises(ValueError, match="another film, model or version"):
        small.remember("a film", foreign)


def resumed(model: OpenModel) -> np.ndarray:
    """A film that was left after its second step and gone on with, through bytes."""
    memory = model.remember("a film")

    def leave(step: Step) -> None:
        if (step.stage, step.index) == ("denoising", 2):
            raise Cancelled

    with pytest.raises(Cancelled):
        model.draw(task_of(model), leave, memory)
    again = model.remember("a film", memory.write())
    assert isinstance(again, FilmMemory)
    assert again.steps == 2
    return model.draw(task_of(model), silent, again)


@pytest.mark.parametrize("way", ["int8", "gguf"])
def test_a_small_denoiser_makes_the_same_film_wherever_its_blocks_are(
    stored: Stored, way: str
) -> None:
    small = stored.load(way)
    film = draw(small)
    packed = stored.packed if way == "gguf" else {}
    for place in ("released", "blocks"):
        moved = replace(small, place=placed(stored, small.adapter, packed, way, Plan(place)))
        assert np.array_equal(draw(moved), film), place


def placed(
    stored: Stored, adapter: Adapter, packed: dict[str, Path], way: str, plan: Plan
) -> Place:
    checkpoint = read_checkpoint(stored.folder, packed)
    pipe = load_pipeline(checkpoint, adapter, torch.float32, "int8" if way == "int8" else "")
    return put(pipe, "cpu", plan)


@pytest.mark.parametrize("way", ["int8", "gguf"])
def test_a_lora_changes_a_small_denoiser_for_its_own_film_only(tmp_path: Path, way: str) -> None:
    torch.manual_seed(0)
    pipe = diffusers.WanPipeline(**wan(**WIDE))
    save(pipe, tmp_path / "weights")
    save_lora(pipe, tmp_path)
    weights = tmp_path / "weights/transformer/diffusion_pytorch_model.safetensors"
    packed = {"transformer": write_gguf("wan", weights, tmp_path / "net.gguf")}
    wishes = Wishes(("32x32",), FRAMES, STEPS, 3.0, None)
    loras = [("rex", "sks", tmp_path / "rex.safetensors")]
    for name, given in (("exact", {}), (way, packed if way == "gguf" else {})):
        add(name, tmp_path / "weights", tmp_path / "models", wishes, None, loras, packed=given)
    exact = loaded("exact", tmp_path / "models/exact")
    small = loaded(way, tmp_path / "models" / way, "int8" if way == "int8" else "auto")
    plain, changed = draw(small), draw(small, adapter="rex")
    change = float(np.abs(draw(exact, adapter="rex") - draw(exact)).mean())
    off = float(np.abs(draw(exact, adapter="rex") - changed).mean())
    assert off < 0.5 * change, "it does not make nearly the film that it makes of the exact network"
    assert np.array_equal(draw(small), plain)


def test_a_gguf_file_in_the_place_of_other_weights_is_found(stored: Stored, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(stored.folder, folder)
    for name, path in stored.packed.items():
        shutil.copy(path, folder / name)
    assert read_checkpoint(folder).packed == {}, "taken though there are weights"
    for name in stored.packed:
        (folder / name / "diffusion_pytorch_model.safetensors").unlink()
    checkpoint = read_checkpoint(folder)
    assert checkpoint.packed == {n: folder / n / p.name for n, p in stored.packed.items()}
    exact = read_checkpoint(stored.folder)
    assert checkpoint.weight_bytes < exact.weight_bytes
    moved = replace(stored, folder=folder, packed={})
    card = moved.register("found")
    assert np.array_equal(draw(loaded("found", card)), draw(stored.load("gguf")))
    shutil.copy(stored.packed["transformer"], folder / "transformer" / "other.gguf")
    with pytest.raises(FolderError, match=r"other\.gguf, .*: say with --gguf which"):
        read_checkpoint(folder)


def test_an_option_without_its_package_names_what_to_install(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=re.escape("int8 weights need praxino[int8]: ")):
        stored.load("int8")
    with pytest.raises(ValueError, match=re.escape("gguf weights need praxino[gguf]: ")):
        stored.load("gguf")


def test_options_are_refused_where_they_mean_nothing(stored: Stored, tmp_path: Path) -> None:
    stored.load("gguf")
    card = stored.folder.parent / "models" / "gguf"
    for dtype in ("int8", "float8"):
        with pytest.raises(ValueError, match=f"dtype '{dtype}': the weights are a GGUF file"):
            loaded("gguf", card, dtype)
    with pytest.raises(ValueError, match="int8"):
        load_model("pocket", None, "cpu", "int8")
    for part, what in (("vae", "for vae, no denoiser"), ("unet", "has no part unet")):
        with pytest.raises(FolderError, match=what):
            stored.register("wrong", packed={part: stored.packed["transformer"]})
    with pytest.raises(ValueError, match="two files of one part"):
        read_packed(["a.gguf", "transformer=b.gguf"])


def test_a_gguf_file_is_as_long_as_it_says_or_refused(stored: Stored, tmp_path: Path) -> None:
    path = stored.packed["transformer"]
    data = path.read_bytes()
    assert len(data) - 32 < expected_bytes(path) <= len(data)
    cut = tmp_path / "cut.gguf"
    for wrong, what in (
        (data[:-64], "fetch it again"),
        (data[:200], "ends in its header"),
        (b"GGUX" + data[4:], "does not begin with GGUF"),
        (data[:4] + b"\x09" + data[5:], "version 9"),
    ):
        cut.write_bytes(wrong)
        with pytest.raises(FolderError, match=what):
            read_checkpoint(stored.folder, {"transformer": cut})


def test_a_gguf_file_of_another_network_is_refused(stored: Stored, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(other, "other")
    writer.add_tensor("head.head.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    card = stored.register(f"other-{stored.name}", packed={"transformer": other})
    with pytest.raises(FolderError, match=re.escape(str(other))):
        loaded(card.name, card)


@pytest.mark.parametrize("name", ["hunyuan", "ltx-2"])
def test_a_gguf_file_under_published_names_is_the_network(name: str, tmp_path: Path) -> None:
    folder = build(name, tmp_path / "wild" / "weights")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    side = 64 if name == "ltx-2" else 32
    wishes = Wishes((f"{side}x{side}",), length(name), 2, 3.0, None)
    packed = {"transformer": write_gguf(name, weights, tmp_path / "net.gguf")}
    add("exact", folder, tmp_path, wishes, None)
    add("packed", folder, tmp_path, wishes, None, packed=packed)
    exact, small = (loaded(which, tmp_path / which) for which in ("exact", "packed"))
    assert held(small) < held(exact)
    fields = {"width": side, "height": side, "num_inference_steps": 2}
    film = draw(small, **fields)
    assert 0 < np.abs(draw(exact, **fields) - film).mean() < 0.01
    assert np.abs(draw(small, **fields, seed=8) - film).mean() > 0.02


def test_hunyuans_single_blocks_are_read_at_their_width() -> None:
    from diffusers.loaders import single_file_utils as reader

    with torch.device("meta"):
        block = diffusers.HunyuanVideoTransformer3DModel(num_layers=0, num_single_layers=1)
    wanted = {
        key: weight.shape
        for key, weight in block.state_dict().items()
        if key.startswith("single_transformer_blocks.0.")
    }
    width, inner = 3072, 4 * 3072
    shapes = {"linear1": (3 * width + inner, width), "linear2": (width, width + inner)}
    shapes["modulation.linear"] = (3 * width, width)
    given = {}
    for part, (out, into) in shapes.items():
        given[f"single_blocks.0.{part}.weight"] = torch.empty(out, into, device="meta")
        given[f"single_blocks.0.{part}.bias"] = torch.empty(out, device="meta")
    for part in ("q_norm", "k_norm"):
        given[f"single_blocks.0.{part}.weight"] = torch.empty(128, device="meta")
    read = reader.convert_hunyuan_video_transformer_to_diffusers(given)
    assert {key: weight.shape for key, weight in read.items()} == wanted


def test_exactly_the_networks_that_diffusers_reads_from_one_file_may_be_packed() -> None:
    from diffusers.loaders import single_file_model as reader

    for name, (family, _) in FAMILIES.items():
        given = inspect.signature(getattr(diffusers, name)).parameters.get("transformer")
        kinds = [] if given is None else typing.get_args(given.annotation) or [given.annotation]
        network = next((kind for kind in kinds if kind is not type(None)), None)
        readable = network and reader._get_single_file_loadable_mapping_class(network)
        assert family.packs == bool(readable), name


@pytest.mark.parametrize("name", ["hunyuan-1.5", "framepack"])
def test_a_gguf_file_that_diffusers_cannot_read_is_refused_before_it_is_registered(
    name: str, tmp_path: Path
) -> None:
    folder = build(name, tmp_path / "weights")
    empty = tmp_path / "net.gguf"
    empty.write_bytes(b"GGUF" + struct.pack("<IQQ8x", 3, 0, 0))
    packed = {"transformer": empty}
    with pytest.raises(FolderError, match="takes no GGUF file"):
        add("wrong", folder, tmp_path / "models", Wishes(), None, packed=packed)
    assert not (tmp_path / "models" / "wrong").exists()


def test_sizes_of_blocks_are_those_of_the_package() -> None:
    kinds = gguf.GGML_QUANT_SIZES
    assert {kind: tuple(kinds[gguf.GGMLQuantizationType(kind)]) for kind in BLOCKS} == BLOCKS
    from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES

    plain = {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16}
    assert set(BLOCKS) == {*map(int, SUPPORTED_GGUF_QUANT_TYPES), *map(int, plain)}
