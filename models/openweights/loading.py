"""A registered checkpoint's folder to a loaded model: offline, safetensors, nobody else's code."""

import importlib
import json
import math
import os
from pathlib import Path
from typing import Any

import torch

from models.catalog import CHECKPOINT, read_card
from models.openweights.adapter import Adapter
from models.openweights.animatediff import ANIMATEDIFF
from models.openweights.cogvideox import COGVIDEOX
from models.openweights.families import read_family
from models.openweights.folder import Checkpoint, FolderError, digest, read_checkpoint, stamp
from models.openweights.framepack import FRAMEPACK, HUNYUAN1
from models.openweights.hunyuan import HUNYUAN
from models.openweights.lora import attach
from models.openweights.ltx import LTX
from models.openweights.ltx2 import LTX2
from models.openweights.memory import settle
from models.openweights.pipeline import OpenModel
from models.openweights.svd import SVD
from models.openweights.vace import VACE
from models.openweights.wan import WAN

ADAPTERS: dict[str, Adapter] = {
    "wan": WAN,
    "ltx": LTX,
    "ltx2": LTX2,
    "cogvideox": COGVIDEOX,
    "hunyuan": HUNYUAN,
    "hunyuan1": HUNYUAN1,
    "framepack": FRAMEPACK,
    "vace": VACE,
    "svd": SVD,
    "animatediff": ANIMATEDIFF,
}

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def load_openweights(
    folder: Path, device: str, dtype: torch.dtype, *, narrow: bool = False
) -> OpenModel:
    """Load the checkpoint that was registered in a folder.

    narrow  store the denoisers' weights in eight bits; they still compute in `dtype`

    raises FolderError if it is no longer whole, or no longer what its card says; ValueError if
           diffusers is not installed
    """
    card = read_card(folder / "card.json")
    note = json.loads((folder / CHECKPOINT).read_text(encoding="utf-8"))
    checkpoint = read_checkpoint(Path(note["folder"]))
    family = read_family(checkpoint)
    if family.tasks != card.tasks:
        raise FolderError(f"{checkpoint.folder}: is not what was registered; add it again")
    adapter = ADAPTERS[family.adapter]
    pipe = load_pipeline(checkpoint, adapter, dtype)
    adapter.equip(pipe, checkpoint.folder)
    attach(pipe, folder)
    sha256 = note["sha256"] if note["stamp"] == stamp(checkpoint) else digest(checkpoint)
    pixels = max(math.prod(map(int, size.split("x"))) for size in card.sizes)
    return OpenModel(card, sha256, adapter, settle(pipe, device, pixels, narrow=narrow))


def load_pipeline(checkpoint: Checkpoint, adapter: Adapter, dtype: torch.dtype) -> Any:
    """The pipeline that the index names, in main memory. raises FolderError, ValueError"""
    os.environ.update(OFFLINE)
    try:
        diffusers, transformers = map(importlib.import_module, ("diffusers", "transformers"))
    except ImportError as error:
        raise ValueError(f"open weights need praxino[open]: {error}") from error
    for library in (diffusers, transformers):  # their own words would stand among our log lines
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    kind = getattr(diffusers, checkpoint.pipeline)
    dtypes = {name: torch.float32 for name in adapter.exact if name in checkpoint.configs}
    try:
        # Without use_safetensors a pickled file beside a missing one would be loaded silently.
        return kind.from_pretrained(
            str(checkpoint.folder),
            local_files_only=True,
            use_safetensors=True,
            dtype=dtypes | {"default": dtype},
        )
    except (OSError, RuntimeError, KeyError) as error:
        raise FolderError(f"{checkpoint.folder}: does not load: {error}") from error
