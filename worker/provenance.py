"""What made a film, for its owner: goes into the MP4 and the sidecar. Never a path or a key."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from models.catalog import OPEN
from models.protocol import VideoModel
from worker.messages import Run

PACKAGES = ("praxino", "torch", "numpy", "av")  # whose versions decide what a film looks like
OPEN_PACKAGES = ("diffusers", "transformers", "peft")  # likewise, of open weights


def read_provenance(run: Run, model: VideoModel) -> dict[str, Any]:
    """Request, seed, hashes of the model and of the LoRA that changed it, if one did, versions."""
    request = run.request.model_dump(mode="json", exclude={"metadata", "user"})
    adapters = {adapter.id: adapter.sha256 for adapter in model.card.adapters}
    tiers = {tier.name: tier.sha256 for tier in model.card.tiers}
    sha256 = adapters.get(run.request.adapter or "") or tiers.get(run.request.quality or "")
    return {
        "generator": "praxino",
        "digital_source_type": "trainedAlgorithmicMedia",
        "job_id": run.job_id,
        "attempt": run.attempt,
        "request": without_keys(request),
        "model_sha256": model.weights_sha256,
        **({"adapter_sha256": sha256} if sha256 else {}),
        "versions": read_versions(OPEN_PACKAGES if model.card.kind == OPEN else ()),
    }


def without_keys(value: Any) -> Any:
    """The same without the storage keys of inputs: they hold the tenant's name, and say nothing
    that the digest beside them does not."""
    if isinstance(value, dict):
        return {name: without_keys(item) for name, item in value.items() if name != "key"}
    return [without_keys(item) for item in value] if isinstance(value, list) else value


def read_versions(more: Sequence[str] = ()) -> dict[str, str]:
    """Installed versions of the packages that decide what a film looks like."""
    versions = {}
    for name in (*PACKAGES, *more):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
