"""AnimateDiff, Guo et al. 2023 (arXiv:2307.04725): an image model that a motion module lets move;
and ModelScope's text to video, Wang et al. 2023 (arXiv:2308.06571), which reads words alone.

With an IP-Adapter, Ye et al. 2023 (arXiv:2308.06721), pictures say what the film shall show.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from models.openweights.adapter import Adapter, Arguments, laid_on_white
from models.openweights.folder import SUBJECTS, FolderError
from models.protocol import Task

BLANK = (64, 64)  # of a picture where none is given; nothing follows it


def arguments(pipe: Any, task: Task) -> Arguments:
    """Pictures of what the film shall show, if the network has an adapter for any."""
    if not sees_subjects(pipe):
        return {}
    shown = [laid_on_white(reference.picture) for reference in task.references]
    return {"ip_adapter_image": [shown or [Image.new("RGB", BLANK)]]}


def sees_subjects(pipe: Any) -> bool:
    """Whether an IP-Adapter is loaded."""
    return getattr(pipe.unet, "encoder_hid_proj", None) is not None


@contextmanager
def showing(pipe: Any, task: Task) -> Iterator[None]:
    """Have pictures followed as strongly as the task says; without any, not at all."""
    if sees_subjects(pipe):
        pipe.set_ip_adapter_scale(task.reference_strength if task.references else 0.0)
    yield


def equip(pipe: Any, folder: Path) -> None:
    """Load the IP-Adapter that lies in a checkpoint's folder, if there is one.

    raises FolderError if it does not fit
    """
    for path in sorted((folder / SUBJECTS).glob("*.safetensors")):
        try:
            pipe.load_ip_adapter(
                str(folder), SUBJECTS, path.name, image_encoder_folder=None, local_files_only=True
            )
        except (ValueError, RuntimeError, KeyError) as error:
            raise FolderError(f"{path}: does not fit: {error}") from error


ANIMATEDIFF = Adapter(
    arguments, during=showing, equip=equip, joined=("sample", "encoder_hidden_states")
)
