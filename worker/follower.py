"""One of a child's other ranks: loads the model, and makes the leader's films along with it.

It is told nothing but tasks, and makes nothing that is kept; see `models.ranks`. It leaves when the
leader does, and ends in disorder when it cannot follow, which ends the leader.
"""

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import structlog

from models.ranks import follow
from worker.child import die_with_parent, limit_resources, load_first
from worker.film import read_places
from worker.journal import configure_logging
from worker.launcher import ChildConfig
from worker.ranks import LOADED, for_rank, join, load_checked

log = structlog.get_logger()

EXIT_UNUSABLE = 3


def main(leader: Connection, rank: int, meeting: Path, config: ChildConfig) -> int:
    """Follow until the leader is gone; returns the exit status."""
    die_with_parent(config.parent_pid)
    limit_resources(config)
    configure_logging()
    try:
        own = for_rank(config, rank)
        model = load_checked(own, load_first)
    except Exception as error:
        log.error("rank.load_failed", rank=rank, model=config.model, exc_info=error)
        leader.send_bytes(f"{type(error).__name__}: {error}"[:2000].encode())
        return EXIT_UNUSABLE
    leader.send_bytes(LOADED)
    try:
        follow(join(model, own, rank, meeting), leader)
    except Exception as error:
        log.error("rank.failed", rank=rank, fault=type(error).__name__, where=read_places(error))
        return EXIT_UNUSABLE
    return 0


if __name__ == "__main__":
    fd, number, place, text = sys.argv[1:]
    status = main(
        Connection(int(fd)), int(number), Path(place), ChildConfig.model_validate_json(text)
    )
    os._exit(status)  # the collectives' threads may wait for ranks that are gone
