"""AnimateDiff, Guo et al. 2023 (arXiv:2307.04725): an image model that a motion module lets move;
and ModelScope's text to video, Wang et al. 2023 (arXiv:2308.06571). Both read words alone.
"""

from typing import Any

from models.openweights.adapter import Adapter, Arguments
from models.protocol import Task


def arguments(pipe: Any, task: Task) -> Arguments:
    """Nothing besides what every pipeline takes."""
    return {}


ANIMATEDIFF = Adapter(arguments)
