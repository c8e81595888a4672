"""The model cards as the counter shows them: the web side reads limits from here.

The service talks to the counter alone, so what it may know of models passes this way.
"""

from models.catalog import (
    CHECKPOINT,
    MODELS_DIR,
    OPEN,
    REGISTERED,
    SAMPLERS,
    TAKEN,
    TASKS,
    UNSHARED,
    CascadeRule,
    CostCurve,
    FrameRule,
    InputLimits,
    ModelCard,
    Quality,
    Span,
    read_catalog,
    read_offer,
)

__all__ = [
    "CHECKPOINT",
    "MODELS_DIR",
    "OPEN",
    "REGISTERED",
    "SAMPLERS",
    "TAKEN",
    "TASKS",
    "UNSHARED",
    "CascadeRule",
    "CostCurve",
    "FrameRule",
    "InputLimits",
    "ModelCard",
    "Quality",
    "Span",
    "read_catalog",
    "read_offer",
]
