"""A preset put together for one measurement: a folder's files with other weights or kinds of task.

So that a checkpoint is read by the same strict loader as what ships, before it is published.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from models.catalog import read_card
from models.protocol import VideoModel
from models.registry import load_model
from models.videoldm.weights import WeightsError


@contextmanager
def assembled(preset: Path, unet: Path | None = None, tasks: Sequence[str] = ()) -> Iterator[Path]:
    """A folder of links to the preset's files, gone afterwards.

    unet   a safetensors file in place of the preset's own
    tasks  kinds of job that its card declares besides its own
    raises WeightsError if there is no such file
    """
    for needed in (preset / "card.json", unet):
        if needed is not None and not needed.is_file():
            raise WeightsError(f"{needed}: no such file")
    with tempfile.TemporaryDirectory(prefix="praxino-probe-") as name:
        folder = Path(name)
        for file in preset.iterdir():
            if file.is_file():
                (folder / file.name).symlink_to(file.resolve())
        if unet is not None:
            (folder / "unet.safetensors").unlink(missing_ok=True)
            (folder / "unet.safetensors").symlink_to(unet.resolve())
        if tasks:
            fields = json.loads((preset / "card.json").read_text(encoding="utf-8"))
            fields["tasks"] = sorted({*fields["tasks"], *tasks})
            (folder / "card.json").unlink()
            (folder / "card.json").write_text(json.dumps(fields), encoding="utf-8")
        yield folder


def open_preset(preset: Path, unet: Path | None = None, tasks: Sequence[str] = ()) -> VideoModel:
    """The model of a preset's folder, changed as `assembled` does.

    raises WeightsError for files that are missing, damaged or misfitting; ValueError for a bad card
    """
    with assembled(preset, unet, tasks) as folder:
        return load_model(read_card(folder / "card.json").id, folder)
