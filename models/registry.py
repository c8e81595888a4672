"""A model's name and folder to a loaded model. The only place that knows both kinds of model."""

from pathlib import Path

import torch

from models.catalog import MODELS_DIR, OPEN, card_paths, read_card
from models.openweights import spread as spreading
from models.openweights.loading import load_openweights
from models.openweights.memory import FLOAT8, INT8
from models.openweights.pipeline import OpenModel
from models.protocol import ResumableModel, VideoModel
from models.videoldm.pipeline import load_videoldm
from models.videoldm.staged import staged
from models.videoldm.weights import WeightsError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STORED = (FLOAT8, INT8)  # of open weights


def model_folder(model_id: str, models_dir: Path = MODELS_DIR) -> Path:
    """The folder below `models_dir` whose card carries this id.

    raises ValueError if there is no such model, naming those there are
    """
    known = {read_card(path).id: path.parent for path in card_paths(models_dir)}
    if model_id not in known:
        raise ValueError(f"model {model_id!r} is none of {sorted(known)}")
    return known[model_id]


def load_model(
    model_id: str,
    folder: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    *,
    attention: str = "auto",
    compiled: str = "auto",
) -> VideoModel:
    """Load a model from its folder; without a folder, one of the embedded models.

    device  as torch names it; "auto" takes a GPU if there is one
    dtype   "auto" is bfloat16 on a GPU and float32 on a CPU; "float8" and "int8" store the
            denoisers of open weights in eight bits and compute as "auto"
    attention, compiled
            of open weights in the quality `fast`; see `models.openweights.loading`
    raises  ValueError for an unknown model, device or dtype, a folder of another model, or an
            option that cannot be had here;
            WeightsError for files that are missing, damaged or misfitting; FolderError for
            open weights that are
    """
    folder = folder or model_folder(model_id)
    chosen = _device(device)
    try:
        card = read_card(folder / "card.json")
    except OSError as error:
        raise WeightsError(f"{folder / 'card.json'}: {error}") from error
    if card.id != model_id:
        raise ValueError(f"{folder} holds model {card.id!r}, not {model_id!r}")
    if card.kind == OPEN:
        stored = dtype if dtype in STORED else ""
        wide = _dtype("auto" if stored else dtype, chosen)
        return load_openweights(
            folder, chosen, wide, stored=stored, attention=attention, compiled=compiled
        )
    return staged(load_videoldm(folder, chosen, _dtype(dtype, chosen)))


def check_spread(model: VideoModel, ranks: int, way: str) -> None:
    """Refuse a model that so many ranks cannot share. raises ValueError"""
    if not isinstance(model, OpenModel):
        raise ValueError(f"{model.card.id} runs on one rank only: ranks share open weights")
    spreading.check(model.place.pipe, model.card, ranks, way)


def spread(model: VideoModel, way: str) -> ResumableModel:
    """Have a loaded model that was checked compute one share in each rank of the process group,
    for good. Every rank must call this."""
    assert isinstance(model, OpenModel)
    spreading.spread(model.place.pipe, model.place.device, way)
    return model


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r}: {error}") from error
    return name


def _dtype(name: str, device: str) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    if name not in DTYPES:
        raise ValueError(
            f"dtype {name!r} is none of {['auto', *DTYPES]}, for open weights {' or '.join(STORED)}"
        )
    return DTYPES[name]
