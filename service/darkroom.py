"""The decoding process: `python -m service.darkroom`, one short life for one request.

It is bounded before it reads a byte of anybody's file: memory, processor time, file size, no core
dumps, and it dies with its parent. Orders come as JSON lines on standard input, each is answered
by one line; a file that kills this process takes nothing else along.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from service import pictures
from service.pictures import Unusable

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
MAX_OPEN_FILES = 64

Order = dict[str, Any]
Answer = dict[str, Any]


def main(bounds: dict[str, int], orders: TextIO, answers: TextIO) -> None:
    """Answer orders until there are no more."""
    confine(bounds)
    for line in orders:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


def confine(bounds: dict[str, int]) -> None:
    """Give up what decoding does not need. Limits are per process, and soft equals hard."""
    limits = {
        resource.RLIMIT_AS: bounds["memory_bytes"],
        resource.RLIMIT_CPU: bounds["cpu_s"],
        resource.RLIMIT_FSIZE: bounds["file_bytes"],
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    if sys.platform == "linux":
        control = ctypes.CDLL(None, use_errno=True).prctl
        control(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        control(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != bounds["parent_pid"]:  # it ended before the kernel was asked
        os._exit(1)


def answer(order: Order) -> Answer:
    """What became of one order: facts, or a sentence on why the file is unusable."""
    try:
        return {"facts": ORDERS[order["do"]](order)}
    except Unusable as error:
        return {"unusable": str(error)}
    except MemoryError:
        return {"unusable": "needs more memory to decode than allowed"}
    except Exception:
        # Whatever a decoder raises on a damaged file; its text may quote paths of ours.
        return {"unusable": "cannot be decoded: it is damaged, or not what it seems"}


def measure_image(order: Order) -> Answer:
    width, height = pictures.measure(Path(order["source"]), order["max_pixels"])
    return {"width": width, "height": height}


def make_frame(order: Order) -> Answer:
    image = pictures.develop(Path(order["source"]), order["max_pixels"])
    return keep(pictures.as_frame(image, tuple(order["size"])), order)


def make_reference(order: Order) -> Answer:
    image = pictures.develop(Path(order["source"]), order["max_pixels"])
    return keep(pictures.as_reference(image, order["longest"]), order)


def keep(image: Image.Image, order: Order) -> Answer:
    pictures.save(image, Path(order["target"]))
    return {"width": image.width, "height": image.height}


def measure_clip(order: Order) -> Answer:
    from service import clips  # costs as much as everything else here, and few orders need it

    facts = clips.inspect(Path(order["source"]), clips.ClipLimits(**order["limits"]))
    return vars(facts)


def pick_frame(order: Order) -> Answer:
    from service import clips

    limits = clips.ClipLimits(**order["limits"])
    return keep(clips.pick_frame(Path(order["source"]), limits, order["last"]), order)


def pick_frames(order: Order) -> Answer:
    from service import clips

    limits, targets = clips.ClipLimits(**order["limits"]), order["targets"]
    found = 0
    for image in clips.pick_frames(Path(order["source"]), limits, len(targets)):
        pictures.save(image, Path(targets[found]))
        found += 1
    return {"count": found}


def make_clip(order: Order) -> Answer:
    from service import clips

    width, height = order["size"]
    count = clips.develop(
        Path(order["source"]),
        clips.ClipLimits(**order["limits"]),
        (width, height),
        order["fps"],
        order["max_frames"],
        Path(order["target"]),
    )
    return {"width": width, "height": height, "num_frames": count, "fps": order["fps"]}


ORDERS: dict[str, Callable[[Order], Answer]] = {
    "measure_image": measure_image,
    "make_frame": make_frame,
    "make_reference": make_reference,
    "measure_clip": measure_clip,
    "pick_frame": pick_frame,
    "pick_frames": pick_frames,
    "make_clip": make_clip,
}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.stdin, sys.stdout)
