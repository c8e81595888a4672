"""`praxino models add`: looks at a checkpoint's folder and writes its card. Never loads torch."""

import argparse
import hashlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.catalog import (
    ADAPTERS,
    CHECKPOINT,
    MODELS_DIR,
    TURBO,
    read_card,
    read_catalog,
    turbo_path,
)
from models.openweights.families import Family, Wishes, adjust, card_fields, read_family
from models.openweights.folder import (
    INDEX,
    NOTHING,
    Checkpoint,
    digest,
    read_checkpoint,
    stamp,
)
from models.openweights.hub import find
from models.openweights.lora import copy
from models.openweights.progress import DENOISERS

Lora = tuple[str, str, Path]  # id, the word that calls it, file
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
MAX_TURBO_STEPS = 16
TOLD = ("hunyuan1", "framepack")  # adapters of networks that are told the scale of guidance
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENSE.pdf")  # files in a folder


@dataclass(frozen=True)
class Terms:
    """What a folder says about the licence of its weights.

    file  that says so, if there is one
    """

    text: str
    file: Path | None

    def note(self, accepted: int) -> dict[str, Any]:
        """Which terms were accepted, and when, in Unix seconds."""
        sha256 = "" if self.file is None else hashlib.sha256(self.file.read_bytes()).hexdigest()
        return {"file": str(self.file or ""), "sha256": sha256, "accepted": accepted}


def main(arguments: Sequence[str] | None = None) -> int:
    """Register one checkpoint; returns the exit status, and says on stderr what is wrong."""
    asked = parser().parse_args(arguments)
    if asked.path and (asked.revision or asked.online):
        sys.stderr.write("Error: --revision and --online are about --hub, not about --path\n")
        return 1
    wishes = Wishes(tuple(asked.size), asked.frames, asked.steps, asked.guidance, asked.fps)
    try:
        loras = [read_lora(text) for text in asked.lora]
        path = asked.path or find(asked.hub, asked.revision, asked.online)
        turbo = None if asked.turbo is None else read_turbo(asked.turbo)
        packed = read_packed(asked.gguf)
        place = (asked.name, path, asked.models_dir)
        summary = add(*place, wishes, asked.licence, loras, asked.hub, turbo, packed)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    sys.stdout.write(f"{summary}\n")
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of `praxino models add`."""
    options = argparse.ArgumentParser("praxino models add", description=__doc__)
    options.add_argument("name", help="what requests call the model")
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument("--path", type=Path, help="folder in diffusers' layout")
    source.add_argument("--hub", metavar="OWNER/NAME", help="likewise, from the hub's local cache")
    options.add_argument("--revision", help="of --hub: branch, tag or commit")
    options.add_argument("--online", action="store_true", help="fetch what the cache lacks")
    options.add_argument("--models-dir", type=Path, required=True, help=argparse.SUPPRESS)
    options.add_argument("--size", action="append", default=[], help="default WxH; again: more")
    options.add_argument("--frames", type=int, help="default length")
    options.add_argument("--steps", type=int, help="default denoising steps")
    options.add_argument("--guidance", type=float, help="default guidance scale; 1 is none")
    options.add_argument("--fps", type=int, help="default frames a second")
    options.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="ID=FILE",
        help="LoRA that requests may name as `adapter`; ID:WORD=FILE if a word calls it",
    )
    options.add_argument(
        "--turbo",
        metavar="STEPS=FILE",
        help="LoRA that makes films in so few steps without guidance: quality `turbo`",
    )
    options.add_argument(
        "--gguf",
        action="append",
        default=[],
        metavar="[PART=]FILE",
        help="GGUF file for the weights of the denoiser, `transformer` unless PART says otherwise",
    )
    options.add_argument("--licence", help="as shown to callers; else what the folder says")
    return options


def read_lora(text: str) -> Lora:
    """`ID=FILE` or `ID:WORD=FILE`. raises ValueError"""
    head, mark, file = text.partition("=")
    name, _, word = head.partition(":")
    if not mark or not NAME.fullmatch(name):
        raise ValueError(f"--lora {text!r}: ID=FILE, the id of small letters, digits and dashes")
    return name, word, Path(file)


def read_turbo(text: str) -> tuple[int, Path]:
    """`STEPS=FILE`. raises ValueError"""
    steps, mark, file = text.partition("=")
    if not mark or not steps.isdecimal() or not 1 <= int(steps) <= MAX_TURBO_STEPS:
        raise ValueError(f"--turbo {text!r}: STEPS=FILE, 1..{MAX_TURBO_STEPS} steps")
    return int(steps), Path(file)


def read_packed(texts: Sequence[str]) -> dict[str, Path]:
    """`FILE` or `PART=FILE`, each, by part. raises ValueError if two are of one part"""
    pairs = [text.rpartition("=") for text in texts]
    packed = {part or DENOISERS[0]: Path(file).resolve() for part, _, file in pairs}
    if len(packed) < len(texts):
        raise ValueError("--gguf: two files of one part; say PART=FILE, as transformer_2=FILE")
    return packed


def add(
    name: str,
    path: Path,
    models_dir: Path,
    wishes: Wishes,
    licence: str | None,
    loras: Sequence[Lora] = (),
    hub: str | None = None,
    turbo: tuple[int, Path] | None = None,
    packed: Mapping[str, Path] = NOTHING,
) -> str:
    """Write the card of a checkpoint below `models_dir`; returns lines that sum it up.

    loras   copied beside the card: id, the word that calls it, file
    hub     id under which the folder was found, if it was
    turbo   likewise: the steps that are enough, file
    packed  GGUF files by the part whose weights they are; not copied

    raises FolderError, OSError; ValueError for a name that is taken or not allowed
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"name {name!r}: small letters, digits, dot, dash and underscore, up to 63"
        )
    if name in read_catalog(MODELS_DIR, models_dir):
        raise ValueError(f"name {name!r} is taken; `praxino models remove {name}` frees it")
    checkpoint = read_checkpoint(path.resolve(), packed)
    family = adjust(read_family(checkpoint), wishes)
    terms = read_licence(checkpoint)
    created = int((checkpoint.folder / INDEX).stat().st_mtime)
    card = card_fields(name, family, checkpoint, licence or terms.text, created)
    note = note_of(checkpoint, packed, terms, hub)
    models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=".") as draft:
        folder = Path(draft) / name
        folder.mkdir()
        write_model(folder, card, note, family, loras, turbo)
        folder.rename(models_dir / name)  # unlike a move, never into a folder that is there
    return summary(name, family, checkpoint, card["licence"], terms)


def note_of(
    checkpoint: Checkpoint, packed: Mapping[str, Path], terms: Terms, hub: str | None
) -> dict[str, Any]:
    """Where the weights of a card are, and what they were when it was written. Reads them all."""
    found = {"hub": hub, "revision": checkpoint.folder.name} if hub else {}
    return found | {
        "folder": str(checkpoint.folder),
        "stamp": stamp(checkpoint),
        "sha256": digest(checkpoint),
        "gguf": {part: str(file) for part, file in packed.items()},
        "licence": terms.note(int(time.time())),
    }


def write_model(
    folder: Path,
    card: dict[str, Any],
    note: dict[str, Any],
    family: Family,
    loras: Sequence[Lora],
    turbo: tuple[int, Path] | None,
) -> None:
    """Write a card, the note beside it, and what else a model has of its own. raises as `add`"""
    if turbo is not None:
        exact = card["tiers"] or [{"name": "standard"}]
        card = card | {"tiers": [*exact, write_turbo(turbo, folder, family)]}
    for file, value in (("card.json", card), (CHECKPOINT, note)):
        (folder / file).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    write_loras(loras, folder / ADAPTERS, family)
    read_card(folder / "card.json")


def summary(name: str, family: Family, checkpoint: Checkpoint, licence: str, terms: Terms) -> str:
    """What was registered, and on whose terms."""
    gib = checkpoint.weight_bytes / 2**30
    kinds = ", ".join(sorted(family.tasks))
    where = terms.file or "the folder holds none: ask its authors"
    return (
        f"{name} is registered: {family.title}, {kinds}, {family.sizes[0]}, {gib:.1f} GiB\n"
        f"licence: {licence} ({where}); who registers it accepts it"
    )


def write_loras(loras: Sequence[Lora], folder: Path, family: Family) -> None:
    """Copy LoRA files to a card's side. raises FolderError, ValueError"""
    if not loras:
        return
    if not family.loras:
        raise ValueError(f"--lora: {family.title} with these parts takes none")
    if TURBO in (name for name, _, _ in loras):
        raise ValueError(f"--lora {TURBO}: the name is taken by --turbo")
    if len({name for name, _, _ in loras}) < len(loras):
        raise ValueError("--lora: an id stands there twice")
    folder.mkdir()
    for name, word, file in loras:
        copy(file, folder / f"{name}.safetensors", word)


def write_turbo(turbo: tuple[int, Path], folder: Path, family: Family) -> dict[str, Any]:
    """Copy the LoRA for few steps to a card's side; the quality that it makes. raises FolderError,
    ValueError"""
    if not family.loras:
        raise ValueError(f"--turbo: {family.title} with these parts takes no LoRA")
    if family.adapter in TOLD:
        raise ValueError(f"--turbo: {family.title} is told a scale at every step, so never without")
    steps, file = turbo
    copy(file, turbo_path(folder), "")
    sha256 = hashlib.sha256(turbo_path(folder).read_bytes()).hexdigest()
    return {"name": TURBO, "base_steps": steps, "distilled": True, "sha256": sha256}


def read_licence(checkpoint: Checkpoint) -> Terms:
    """What the folder says about its licence: the model card's own line, or the licence file."""
    files = (checkpoint.folder / name for name in LICENCES)
    file = next((path for path in files if path.is_file()), None)
    readme = checkpoint.folder / "README.md"
    if readme.is_file():
        head = readme.read_text(encoding="utf-8", errors="replace")[:4000]
        for named in re.findall(r"^license(?:_name)?: *(\S+)", head, re.MULTILINE):
            if named != "other":
                return Terms(str(named), file or readme)
    return Terms("unknown" if file is None else f"see its {file.name}", file)


if __name__ == "__main__":
    sys.exit(main())
