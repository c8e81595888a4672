"""The second of two ranks: follows through one model after the other."""

import json
import sys
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import distributed as dist

from models.openweights import tiers
from models.openweights.spread import has_changed
from models.ranks import follow
from models.registry import load_model, spread

LOOSE = 10.0  # of `fast`: random weights change much from step to step


def meet(meeting: Path, rank: int) -> list[list[bool]]:
    """Join the two. returns the votes of both, see `votes`"""
    store = dist.FileStore(str(meeting), 2)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    store.set(f"votes {rank}", json.dumps(votes(rank)))
    return [json.loads(store.get(f"votes {each}")) for each in range(2)]


def votes(rank: int) -> list[bool]:
    """Whether a rank computes all blocks: when only the first one's tokens have changed, only the
    second one's, and nobody's."""
    before = torch.ones(1, 4, 2)
    state = SimpleNamespace(head_block_residual=before)
    hook = SimpleNamespace(threshold=0.1, state_manager=SimpleNamespace(get_state=lambda: state))
    changed = [2 * before if rank == who else before for who in (0, 1, None)]
    return [has_changed(hook, dist.group.WORLD, added) for added in changed]


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
