"""A registered checkpoint's folder to a loaded model: offline, safetensors, nobody else's code."""

import importlib
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import torch

from models.catalog import CHECKPOINT, read_card
from models.openweights.adapter import Adapter
from models.openweights.animatediff import ANIMATEDIFF
from models.openweights.attention import AUTO, choose
from models.openweights.cogvideox import COGVIDEOX
from models.openweights.families import read_family
from models.openweights.folder import Checkpoint, FolderError, digest, read_checkpoint, stamp
from models.openweights.framepack import FRAMEPACK, HUNYUAN1
from models.openweights.hunyuan import HUNYUAN
from models.openweights.lora import attach
from models.openweights.ltx import LTX, LTX_WORDS
from models.openweights.ltx2 import LTX2
from models.openweights.memory import FLOAT8, INT8, Place, denoisers_of, settle
from models.openweights.pipeline import OpenModel
from models.openweights.plan import BLOCKS
from models.openweights.progress import DENOISERS
from models.openweights.regions import Compiler
from models.openweights.svd import SVD
from models.openweights.tiers import FAST, PLAIN, Means
from models.openweights.vace import VACE
from models.openweights.wan import WAN

ADAPTERS: dict[str, Adapter] = {
    "wan": WAN,
    "ltx": LTX,
    "ltx_words": LTX_WORDS,
    "ltx2": LTX2,
    "cogvideox": COGVIDEOX,
    "hunyuan": HUNYUAN,
    "hunyuan1": HUNYUAN1,
    "framepack": FRAMEPACK,
    "vace": VACE,
    "svd": SVD,
    "animatediff": ANIMATEDIFF,
}

# Without use_safetensors a pickled file beside a missing one would be loaded silently.
LOCAL = {"local_files_only": True, "use_safetensors": True}
MODULES = {"ltx2": "diffusers.pipelines.ltx2"}  # of libraries that an index names otherwise
COMPILED = (AUTO, "on", "off")
LOUD = ("torchao", "torch.utils._pytree")  # tell of every kernel that is not for this machine
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def load_openweights(
    folder: Path,
    device: str,
    dtype: torch.dtype,
    *,
    stored: str = "",
    attention: str = AUTO,
    compiled: str = AUTO,
) -> OpenModel:
    """Load the checkpoint that was registered in a folder.

    stored     FLOAT8 or INT8: how the denoisers' weights are stored; they still compute in `dtype`
    attention  kernel of the quality `fast`; see `models.openweights.attention`
    compiled   whether blocks are compiled there: "auto" is on CUDA only, "on", "off"

    raises FolderError if it is no longer whole, or no longer what its card says; ValueError if
           a package that is needed is not installed, GGUF files are to be stored another way, or
           a kernel is not to be had
    """
    card = read_card(folder / "card.json")
    note = json.loads((folder / CHECKPOINT).read_text(encoding="utf-8"))
    packed = {part: Path(file) for part, file in note.get("gguf", {}).items()}
    checkpoint = read_checkpoint(Path(note["folder"]), packed)
    family = read_family(checkpoint)
    if family.tasks != card.tasks:
        raise FolderError(f"{checkpoint.folder}: is not what was registered; add it again")
    adapter = ADAPTERS[family.adapter]
    pipe = load_pipeline(checkpoint, adapter, dtype, stored)
    adapter.equip(pipe, checkpoint.folder)
    attach(pipe, folder)
    sha256 = note["sha256"] if note["stamp"] == stamp(checkpoint) else digest(checkpoint)
    pixels = max(math.prod(map(int, size.split("x"))) for size in card.sizes)
    place = settle(pipe, device, pixels, stored)
    fast = any(tier.name == FAST for tier in card.tiers)
    means = means_of(place, adapter.masked, attention, compiled) if fast else PLAIN
    return OpenModel(card, sha256, adapter, place, means)


def means_of(place: Place, masked: bool, attention: str, compiled: str) -> Means:
    """What the quality `fast` uses. Blocks that come and go, and those that are stored as eight-bit
    floats, hold what cannot be compiled. raises ValueError"""
    if compiled not in COMPILED:
        raise ValueError(f"compiled {compiled!r} is none of {COMPILED}")
    network = getattr(place.pipe, denoisers_of(place.pipe)[0])
    able = place.plan.place != BLOCKS and place.stored != FLOAT8
    wanted = compiled == "on" or (compiled == AUTO and place.device.startswith("cuda"))
    return Means(
        attention=choose(attention, place.device, network, masked=masked),
        compiler=Compiler(strict=compiled == "on") if able and wanted else None,
    )


def load_pipeline(
    checkpoint: Checkpoint, adapter: Adapter, dtype: torch.dtype, stored: str = ""
) -> Any:
    """The pipeline that the index names, in main memory; `stored` as for `load_openweights`, but
    for FLOAT8, which comes later. raises FolderError, ValueError"""
    diffusers = open_libraries()
    kind = getattr(diffusers, checkpoint.pipeline)
    dtypes = {name: torch.float32 for name in adapter.exact if name in checkpoint.configs}
    dtypes["default"] = dtype
    networks = unpacked(checkpoint, dtype, stored) if checkpoint.packed else {}
    networks |= read_networks(checkpoint, dtypes, eight_bits() if stored == INT8 else None)
    try:
        return kind.from_pretrained(str(checkpoint.folder), dtype=dtypes, **LOCAL, **networks)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise FolderError(f"{checkpoint.folder}: does not load: {error}") from error


def open_libraries() -> Any:
    """diffusers, offline and silent: its own words would stand among our log lines. raises
    ValueError if it, or transformers, is not installed"""
    os.environ.update(OFFLINE)
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
    libraries = needed("open", "diffusers", "transformers")
    for library in libraries:
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    return libraries[0]


def read_networks(
    checkpoint: Checkpoint, dtypes: dict[str, torch.dtype], small: Any | None
) -> dict[str, Any]:
    """All parts with weights but those of GGUF files. Read here, and not by the pipeline: what a
    file lacks is filled with random numbers, and only whoever asks a part is told.

    dtypes  of parts by name, and the "default"
    small   how the matrices of denoisers are stored
    raises  FolderError
    """
    found = {}
    for name, (library, kind) in checkpoint.networks().items():
        if name in checkpoint.packed:
            continue
        folder = checkpoint.folder / name
        options = {"quantization_config": small} if small and name in DENOISERS else {}
        try:
            source = importlib.import_module(MODULES.get(library, library))
            found[name], told = getattr(source, kind).from_pretrained(
                str(folder),
                dtype=dtypes.get(name, dtypes["default"]),
                output_loading_info=True,
                **LOCAL,
                **options,
            )
        except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
            raise FolderError(f"{folder}: does not load: {error}") from error
        if missing := sorted(told["missing_keys"]):
            raise FolderError(f"{folder}: its files lack {len(missing)} weights: {missing[0]}")
    return found


def eight_bits() -> Any:
    """What has the matrices of a network stored as eight-bit integers with a scale for each row.

    raises ValueError if torchao is not installed
    """
    import diffusers

    (ao,) = needed(INT8, "torchao.quantization")
    return diffusers.TorchAoConfig(ao.Int8WeightOnlyConfig())


def unpacked(checkpoint: Checkpoint, dtype: torch.dtype, stored: str) -> dict[str, Any]:
    """The denoisers whose weights are GGUF files; blocks are widened to `dtype` at each pass.

    raises FolderError for a file of another network; ValueError if gguf is not installed, or they
           are to be stored another way besides
    """
    import diffusers

    if stored:
        raise ValueError(f"dtype {stored!r}: the weights are a GGUF file, which is small already")
    needed("gguf", "gguf")
    networks = {}
    for name, path in checkpoint.packed.items():
        kind = getattr(diffusers, checkpoint.index[name][1])
        try:
            networks[name] = kind.from_single_file(
                str(path),
                config=str(checkpoint.folder),
                subfolder=name,
                local_files_only=True,
                quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=dtype),
                dtype=dtype,
            )
        except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
            raise FolderError(f"{path}: does not load: {error}") from error
        if missing := [n for n, weight in networks[name].named_parameters() if weight.is_meta]:
            raise FolderError(f"{path}: is of another network: it lacks {missing[0]}")
    return networks


def needed(extra: str, *names: str) -> list[Any]:
    """Packages that an option needs. raises ValueError naming the extra that installs them"""
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        what = "open weights" if extra == "open" else f"{extra} weights"
        raise ValueError(f"{what} need praxino[{extra}]: {error}") from error
