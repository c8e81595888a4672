"""GGUF files: a network's weights in one file, in blocks of few bits with a scale each.

Reads the header, as ggml's documentation of the format lays it out, version 2 or 3; never a weight,
and needs no package. What the blocks hold is diffusers' and the package `gguf`'s affair.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".gguf"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # of weights in the file, unless it says otherwise
ALIGNED = "general.alignment"
MAX_TEXT_BYTES = 2**24
MAX_COUNT = 2**20  # of facts, of tensors
STRING, LIST = 8, 9  # among the kinds of facts
FACTS = "<BbHhIif?"  # kinds 0 to 7 of facts, and …
LARGE_FACTS = {10: "<Q", 11: "<q", 12: "<d"}
# How many numbers are a block, and its bytes, by ggml's number of the kind.
BLOCKS: dict[int, tuple[int, int]] = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    20: (32, 18),  # IQ4_NL
    23: (256, 136),  # IQ4_XS
    30: (1, 2),  # BF16
}


def expected_bytes(path: Path) -> int:
    """How long a GGUF file is, by its header.

    raises ValueError for another file, or a kind of blocks that diffusers does not read; OSError
    """
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version, tensors, facts = unpack(file, "<IQQ")
        if version not in VERSIONS or max(tensors, facts) > MAX_COUNT:
            raise ValueError(f"version {version}, {tensors} tensors, {facts} facts")
        told = dict(read_fact(file) for _ in range(facts))
        ends = [end_of_tensor(file) for _ in range(tensors)]
        aligned = told.get(ALIGNED, ALIGNMENT)
        if not isinstance(aligned, int) or aligned < 1:
            raise ValueError(f"{ALIGNED} {aligned!r}")
        return math.ceil(file.tell() / aligned) * aligned + max(ends, default=0)


def end_of_tensor(file: BinaryIO) -> int:
    """Where the next tensor's blocks end, counted from where those of the first begin."""
    name = read_text(file)
    (dimensions,) = unpack(file, "<I")
    if dimensions > 8:
        raise ValueError(f"{name} has {dimensions} dimensions")
    *shape, kind, begin = unpack(file, f"<{dimensions}QIQ")
    if kind not in BLOCKS:
        raise ValueError(f"{name} is in blocks of kind {kind}, which are not read")
    numbers, size = BLOCKS[kind]
    return int(begin) + math.prod(shape) // numbers * size


def read_fact(file: BinaryIO) -> tuple[str, object]:
    """The next fact that the file says about itself: its name and value; lists are passed over."""
    name = read_text(file)
    (kind,) = unpack(file, "<I")
    if kind != LIST:
        return name, read_value(file, kind)
    kind, count = unpack(file, "<IQ")
    for _ in range(count):
        read_value(file, kind)
    return name, None


def read_value(file: BinaryIO, kind: int) -> object:
    """A fact's value, not a list."""
    if kind == STRING:
        return read_text(file)
    form = LARGE_FACTS.get(kind) or (f"<{FACTS[1 + kind]}" if kind < STRING else None)
    if form is None:
        raise ValueError(f"a fact of kind {kind}")
    return unpack(file, form)[0]


def read_text(file: BinaryIO) -> str:
    """A string with its length before it."""
    (length,) = unpack(file, "<Q")
    if length > MAX_TEXT_BYTES:
        raise ValueError(f"a text of {length} bytes")
    return file.read(length).decode("utf-8", errors="replace")


def unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    """Numbers of a form. raises ValueError where the file ends before"""
    data = file.read(struct.calcsize(form))
    try:
        return struct.unpack(form, data)
    except struct.error as error:
        raise ValueError("it ends in its header") from error


def files_in(folder: Path) -> Iterator[Path]:
    """The GGUF files in a folder, in name order."""
    yield from sorted(folder.glob(f"*{SUFFIX}"))
