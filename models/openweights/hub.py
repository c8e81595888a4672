"""Checkpoints by their id on a model hub: from the local cache, and from the network if asked to.

Nothing is fetched without being asked, and only what is loaded: of the parts that the index names
JSON, safetensors and tokenizers' files, and licences; never pickle, never code, and not what else
lies there, which may be many times as much. Loads no torch.
"""

import importlib
import re
from pathlib import Path
from typing import Any

from models.openweights.folder import (
    DECIDING,
    INDEX,
    SUBJECTS,
    WEIGHTS,
    FolderError,
    is_part,
    read_json,
)

ID = re.compile(r"[\w.-]+/[\w.-]+")
ABOUT = (INDEX, "LICENSE*", "README.md")
FILES = (
    *(f"*{suffix}" for suffix in DECIDING),
    *(f"{stem}{end}.safetensors" for stem in WEIGHTS for end in ("", "-*-of-*")),
)
ROUNDED = "*.fp16*"  # the same weights once more, in fewer bits


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
    if online:
        return fetch(client, repo, revision)
    try:  # what else it lacks is found out by whoever reads it
        return Path(
            client.snapshot_download(
                repo, revision=revision, local_files_only=True, allow_patterns=INDEX
            )
        )
    except (OSError, ValueError) as error:  # the client's own are of these kinds
        where = client.constants.HF_HUB_CACHE
        raise FolderError(
            f"{repo}: is not in the local cache, {where}; --online asks the network for it"
        ) from error


def fetch(client: Any, repo: str, revision: str | None) -> Path:
    """The folder of a checkpoint, with what the cache lacks from the network. raises FolderError"""
    try:
        folder = Path(client.snapshot_download(repo, revision=revision, allow_patterns=ABOUT))
        parts = [name for name, value in read_json(folder / INDEX).items() if is_part(name, value)]
        wanted = [f"{part}/{pattern}" for part in parts for pattern in FILES]
        wanted += [f"{SUBJECTS}/*.safetensors", *ABOUT]
        commit = folder.name  # a branch may have moved on meanwhile
        client.snapshot_download(
            repo, revision=commit, allow_patterns=wanted, ignore_patterns=ROUNDED
        )
    except (OSError, ValueError) as error:
        if isinstance(error, FolderError):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise FolderError(f"{repo}: cannot be fetched: {lines[0]}") from error
    return folder
