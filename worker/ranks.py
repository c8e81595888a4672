"""A child's other ranks: processes beside it that compute their share of each film.

All ranks form one child. The first one, rank 0, is the process that the supervisor knows; it starts
the others in its own process group, and the kernel ends them with it. If one of them ends, rank 0
ends at once: the supervisor sees its child die, and never a film that waits for nobody.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import structlog
import torch
from torch import distributed as dist

from models.protocol import ResumableModel, VideoModel
from models.ranks import Leader
from models.registry import check_spread, spread
from worker.launcher import ChildConfig, child_environment

log = structlog.get_logger()

FOLLOWER_MODULE = "worker.follower"
EXIT_RANK_LOST = 5
LOADED = b""  # from a follower; anything else says why it is not
JOIN_TIMEOUT = timedelta(minutes=10)

Load = Callable[[ChildConfig], VideoModel]


def lead(config: ChildConfig, load: Load) -> Leader:
    """Start the other ranks, load the model in all of them, and join them.

    load    loads it for a config
    raises  what `load` does; ValueError if the model or the devices do not suit so many ranks, or
            another rank could not load it. To be called on the main thread: the others die with it
    """
    own = for_rank(config, 0)
    meeting = config.scratch_dir / f"ranks-{os.getpid()}"
    config.scratch_dir.mkdir(parents=True, exist_ok=True)
    meeting.unlink(missing_ok=True)  # of a process that had this number before
    started = [start(config, rank, meeting) for rank in range(1, config.ranks)]
    try:
        model = load_checked(own, load)
        for rank, (_, follower) in enumerate(started, 1):
            if fault := read_fault(follower):
                raise ValueError(f"rank {rank} did not load the model: {fault}")
    except BaseException:
        for process, _ in started:
            process.kill()
            process.wait()
        raise
    for process, _ in started:
        threading.Thread(target=watch, args=(process,), daemon=True).start()
    return Leader(join(model, own, 0, meeting), [follower for _, follower in started], own.ranks_by)


def load_checked(config: ChildConfig, load: Load) -> VideoModel:
    """Load a rank's model. raises what `load` does; ValueError if so many cannot share it"""
    model = load(config)
    check_spread(model, config.ranks, config.ranks_by)
    return model


def join(model: VideoModel, config: ChildConfig, rank: int, meeting: Path) -> ResumableModel:
    """Meet the other ranks and spread a loaded model over all.

    config   of this rank
    meeting  a file that all of them know, and nobody else
    """
    if config.device.startswith("cuda"):
        torch.cuda.set_device(config.device)
    elif sys.platform == "linux":  # gloo's sockets: nobody beyond this machine is to reach them
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "nccl" if config.device.startswith("cuda") else "gloo",
        store=dist.FileStore(str(meeting), config.ranks),  # type: ignore[attr-defined]
        rank=rank,
        world_size=config.ranks,
        timeout=JOIN_TIMEOUT,
    )
    return spread(model, config.ranks_by)


def for_rank(config: ChildConfig, rank: int) -> ChildConfig:
    """A child's config with the device of one rank. raises ValueError"""
    wanted = config.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda":
        if torch.cuda.device_count() < config.ranks:
            raise ValueError(f"{config.ranks} ranks on {torch.cuda.device_count()} GPUs")
        wanted = f"cuda:{rank}"
    elif wanted != "cpu":
        raise ValueError(f"{config.ranks} ranks on device {wanted!r}: cuda or cpu")
    return config.model_copy(update={"device": wanted})


def start(
    config: ChildConfig, rank: int, meeting: Path
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start one follower in this process's group; it dies with this thread."""
    ours, theirs = socket.socketpair()
    own = config.model_copy(update={"parent_pid": os.getpid()})
    with theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                FOLLOWER_MODULE,
                str(theirs.fileno()),
                str(rank),
                str(meeting),
                own.model_dump_json(),
            ],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env=child_environment(dict(os.environ), 0),
        )
    return process, Connection(ours.detach())


def read_fault(follower: Connection) -> str:
    """Wait until a follower has loaded its model; "" if it has, else why not."""
    try:
        return follower.recv_bytes().decode()
    except (EOFError, OSError):
        return "the process died"


def watch(process: "subprocess.Popen[bytes]") -> None:
    """End this process, whatever it is in the middle of, once a follower has ended in disorder."""
    if code := process.wait():
        log.error("rank.lost", pid=process.pid, status=code)
        os._exit(EXIT_RANK_LOST)
