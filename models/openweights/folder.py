"""A checkpoint in diffusers' layout, as it lies on disk: what it says and whether it is whole.

A denoiser's weights may be a GGUF file instead, in its part's folder or anywhere else. Reads JSON
and the headers of weight files; never a weight, and never loads torch.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.openweights import gguf

INDEX = "model_index.json"
# Others would be code that came with the weights; the last is a folder of diffusers' own.
LIBRARIES = ("diffusers", "transformers", "ltx2")
CONFIGS = (
    "config.json",
    "scheduler_config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "guider_config.json",
)
WEIGHTS = ("diffusion_pytorch_model", "model")  # how weight files begin, by library
WEIGHTLESS = ("Tokenizer", "Processor", "Scheduler", "Guidance")  # in the names of their classes
TOKENIZER, LETTERS = "Tokenizer", "ByT5"  # the latter's tokenizer knows bytes and needs no file
# What a tokenizer knows words from: one of these, all of it.
VOCABULARIES = (
    ("tokenizer.json",),
    ("spiece.model",),
    ("tokenizer.model",),
    ("sentencepiece.bpe.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
)
SUBJECTS = "ip_adapter"  # folder of a file that no index names: an IP-Adapter
SUBJECT_PARTS = ("image_proj.", "ip_adapter.")  # of such a file
DECIDING = (".json", ".txt", ".model", ".jinja")  # of files beside weights, what decides films
MAX_HEADER_BYTES = 2**27
CHUNK_BYTES = 2**22
NOTHING: Mapping[str, Path] = {}


class FolderError(ValueError):
    """A folder is not a checkpoint, or not all of one; the text names what is missing."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its index, the configs of its parts, its weight files."""

    folder: Path
    index: dict[str, Any]
    configs: dict[str, dict[str, Any]]  # of each part that is there
    weights: tuple[Path, ...]  # in name order, relative to the folder; GGUF files maybe elsewhere
    packed: dict[str, Path] = field(default_factory=dict)  # GGUF files, by the part they are of

    @property
    def pipeline(self) -> str:
        """The class that diffusers would make of it."""
        return str(self.index.get("_class_name", ""))

    def networks(self) -> dict[str, tuple[str, str]]:
        """The parts that have weights: of which library and class."""
        parts = {name: tuple(self.index[name]) for name in self.configs}
        return {name: (by, kind) for name, (by, kind) in parts.items() if has_weights(kind)}

    @property
    def weight_bytes(self) -> int:
        """Of all weight files."""
        return sum((self.folder / path).stat().st_size for path in self.weights)


def read_checkpoint(folder: Path, packed: Mapping[str, Path] = NOTHING) -> Checkpoint:
    """Read a folder and see that every part which its index names is whole.

    packed  GGUF files to take for the weights of parts; a part without other weights has its own
    raises  FolderError naming what is missing or damaged
    """
    if not folder.is_dir():
        raise FolderError(f"{folder}: no such folder")
    index = read_json(folder / INDEX)
    parts = {name: value for name, value in index.items() if is_part(name, value)}
    if strange := sorted(set(packed) - set(parts)):
        raise FolderError(f"{folder}: has no part {', '.join(strange)} for a GGUF file")
    configs: dict[str, dict[str, Any]] = {}
    weights: list[Path] = []
    found: dict[str, Path] = {}
    for name, (library, kind) in sorted(parts.items()):
        if library not in LIBRARIES:
            raise FolderError(f"{folder}: {name} is made by {library!r}, not by {LIBRARIES}")
        configs[name] = read_part(folder / name)
        if TOKENIZER in kind and LETTERS not in kind:
            check_vocabulary(folder / name)
        if has_weights(kind):
            path = packed.get(name) or own_gguf(folder / name)
            if path is not None:
                found[name] = path
                check_gguf(path)
            weights += check_weights(folder / name) if path is None else [path]
    weights += check_subjects(folder / SUBJECTS)
    return Checkpoint(
        folder, index, configs, tuple(sorted(below(path, folder) for path in weights)), found
    )


def below(path: Path, folder: Path) -> Path:
    """A path relative to a folder that it is in; any other as it is."""
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def is_part(name: str, value: object) -> bool:
    """Whether an entry of the index names a part that is there: a library and a class."""
    if name.startswith("_") or not isinstance(value, list) or len(value) != 2:
        return False
    return all(isinstance(word, str) for word in value)


def has_weights(kind: str) -> bool:
    """Whether a part of this class has any."""
    return not any(word in kind for word in WEIGHTLESS)


def check_vocabulary(folder: Path) -> None:
    """See that a tokenizer knows words: without, it is made all the same, and reads none of them.
    raises FolderError"""
    if not any(all((folder / name).is_file() for name in names) for names in VOCABULARIES):
        known = " or ".join(" with ".join(names) for names in VOCABULARIES)
        raise FolderError(f"{folder}: has no vocabulary: {known}")


def read_part(folder: Path) -> dict[str, Any]:
    """The config of a part. raises FolderError"""
    for name in CONFIGS:
        if (folder / name).is_file():
            return read_json(folder / name)
    raise FolderError(f"{folder}: is missing, or has none of {', '.join(CONFIGS)}")


def check_weights(folder: Path) -> list[Path]:
    """The weight files of a part, each whole. raises FolderError"""
    for stem in WEIGHTS:
        index = folder / f"{stem}.safetensors.index.json"
        single = folder / f"{stem}.safetensors"
        if index.is_file():
            return check_shards(index)
        if single.is_file():
            read_header(single)
            return [single]
    raise FolderError(f"{folder}: has no weights: {' or '.join(WEIGHTS)}.safetensors")


def check_shards(index: Path) -> list[Path]:
    """The weight files that an index names, each with the weights it is said to hold. raises
    FolderError"""
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise FolderError(f"{index}: names no weight files")
    files = {str(name): index.parent / str(name) for name in named.values()}
    headers = {name: read_header(path)[0] for name, path in files.items()}
    for weight, name in named.items():
        if weight not in headers[str(name)]:
            raise FolderError(f"{files[str(name)]}: lacks {weight}, which its index names")
    return sorted(files.values())


def own_gguf(folder: Path) -> Path | None:
    """The GGUF file in a part's folder, if there are no other weights. raises FolderError where it
    is one of several"""
    plain = (folder / f"{stem}.safetensors{end}" for stem in WEIGHTS for end in ("", ".index.json"))
    paths = list(gguf.files_in(folder))
    if not paths or any(path.is_file() for path in plain):
        return None
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise FolderError(f"{folder}: holds {names}: say with --gguf which is meant")
    return paths[0]


def check_gguf(path: Path) -> None:
    """See that a GGUF file is as long as its header says. raises FolderError"""
    try:
        expected, found = gguf.expected_bytes(path), path.stat().st_size
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise FolderError(f"{path}: is no GGUF file that can be read: {error}") from error
    if found < expected:  # what pads the last tensor may be there or not
        raise FolderError(f"{path}: holds {found} bytes, not {expected}: fetch it again")


def check_subjects(folder: Path) -> list[Path]:
    """The IP-Adapter that may lie beside the parts, whole. raises FolderError"""
    if not folder.is_dir():
        return []
    paths = sorted(folder.glob("*.safetensors"))
    if len(paths) != 1:
        raise FolderError(f"{folder}: holds {len(paths)} safetensors files, not one")
    header, _ = read_header(paths[0])
    missing = [part for part in SUBJECT_PARTS if not any(key.startswith(part) for key in header)]
    if missing:
        raise FolderError(f"{paths[0]}: is no IP-Adapter: holds no {missing[0]}")
    return paths


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header, and where the data begins; the file is as long as that says.
    raises FolderError"""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= MAX_HEADER_BYTES:
                raise ValueError("no header")
            header = json.loads(file.read(length))
        ends = (entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__")
        expected = 8 + length + max(ends, default=0)
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise FolderError(f"{path}: is no safetensors file: {error}") from error
    found = path.stat().st_size
    if found != expected:
        raise FolderError(f"{path}: holds {found} bytes, not {expected}: fetch it again")
    return header, 8 + length


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. raises FolderError"""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise FolderError(f"{path}: is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise FolderError(f"{path}: is no JSON object")
    return value


def digest(checkpoint: Checkpoint) -> str:
    """Hex digest over every config and weight file, in name order. Reads all of them."""
    total = hashlib.sha256()
    for path in deciding_files(checkpoint):
        total.update(f"{path.name if path.is_absolute() else path.as_posix()}\n".encode())
        with (checkpoint.folder / path).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                total.update(chunk)
    return total.hexdigest()


def stamp(checkpoint: Checkpoint) -> list[list[str | int]]:
    """Name, size and time of change of every such file: if they are the same, so is the digest."""
    facts = ((path, (checkpoint.folder / path).stat()) for path in deciding_files(checkpoint))
    return [[path.as_posix(), stat.st_size, stat.st_mtime_ns] for path, stat in facts]


def deciding_files(checkpoint: Checkpoint) -> Iterator[Path]:
    """What decides the films of a checkpoint: relative paths in name order."""
    folder = checkpoint.folder
    jsons = [folder / INDEX, *(p for name in checkpoint.configs for p in (folder / name).iterdir())]
    plain = {p.relative_to(folder) for p in jsons if p.suffix in DECIDING}
    yield from sorted(plain | set(checkpoint.weights))
