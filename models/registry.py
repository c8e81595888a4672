"""A model's name to a loaded model. The only place that knows which kind of model a name means."""

from pathlib import Path

import torch

from models.catalog import MODELS_DIR, card_paths, read_card
from models.protocol import VideoModel
from models.videoldm.pipeline import load_videoldm

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def model_folder(model_id: str, weights_dir: Path | None = None) -> Path:
    """The folder whose card carries this id.

    weights_dir  folder of model folders; None means the embedded ones
    raises       ValueError if there is no such model, naming those there are
    """
    known = {}
    for path in card_paths(weights_dir or MODELS_DIR):
        known[read_card(path).id] = path.parent
    if model_id not in known:
        raise ValueError(f"model {model_id!r} is none of {sorted(known)}")
    return known[model_id]


def load_model(
    model_id: str, weights_dir: Path | None = None, device: str = "cpu", dtype: str = "float32"
) -> VideoModel:
    """Load a model.

    raises ValueError for an unknown model or dtype; WeightsError for files that do not load
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is none of {sorted(DTYPES)}")
    folder = model_folder(model_id, weights_dir)
    return load_videoldm(folder, device, DTYPES[dtype])
