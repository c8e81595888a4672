"""Checkpoints by their id on a model hub: from the local cache, and from the network if asked to.

Nothing is fetched without being asked, and only what is loaded: JSON, safetensors, tokenizers'
files, licences; never pickle, never code. Loads no torch.
"""

import importlib
import re
from pathlib import Path

from models.openweights.folder import DECIDING, FolderError

ID = re.compile(r"[\w.-]+/[\w.-]+")
WANTED = ("*.safetensors", "LICENSE*", "README.md", *(f"*{suffix}" for suffix in DECIDING))


def find(repo: str, revision: str | None, online: bool) -> Path:
    """The folder of a checkpoint by its id, "owner/name".

    revision  branch, tag or commit; None is the main one
    online    may ask the network for what is not in the cache
    raises    FolderError if it is not there, cannot be fetched, or is no id; ValueError if the
              hub's client is not installed
    """
    if not ID.fullmatch(repo):
        raise FolderError(f"hub id {repo!r}: owner/name")
    try:
        client = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ValueError(f"hub ids need praxino[open]: {error}") from error
    try:
        folder = client.snapshot_download(
            repo, revision=revision, local_files_only=not online, allow_patterns=list(WANTED)
        )
    except (OSError, ValueError) as error:  # the client's own are of these kinds
        if online:
            first = str(error).strip().splitlines()[0]
            raise FolderError(f"{repo}: cannot be fetched: {first}") from error
        where = client.constants.HF_HUB_CACHE
        raise FolderError(
            f"{repo}: is not in the local cache, {where}; --online asks the network for it"
        ) from error
    return Path(folder)
