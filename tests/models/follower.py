"""The second of two ranks: follows through one model after the other."""

import sys
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import distributed as dist

from models.openweights import tiers
from models.ranks import follow
from models.registry import load_model, spread

LOOSE = 10.0  # of `fast`: random weights change much from step to step


def meet(meeting: Path, rank: int) -> None:
    """Join the two."""
    store = dist.FileStore(str(meeting), 2)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )


def main(meeting: Path, models: list[str]) -> None:
    """Each model is named as `fd=id=folder=way`."""
    torch.set_num_threads(1)
    tiers.TOLERANCE = LOOSE
    meet(meeting, 1)
    for named in models:
        fd, name, folder, way = named.split("=")
        follow(spread(load_model(name, Path(folder), "cpu"), way), Connection(int(fd)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
