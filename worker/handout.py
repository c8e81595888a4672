"""Copies of finished films to the jobs that waited for them: at once, or by the janitor later."""

import structlog
from redis import Redis

from worker.jobs.sharing import Sharing
from worker.jobs.tenants import read_owner
from worker.patience import OUTAGES

log = structlog.get_logger()

FAULTS: tuple[type[Exception], ...] = (OSError, *OUTAGES)
OVERDUE_S = 5.0  # the worker that made the film has had its time


def hand_out(sharing: Sharing, leader_id: str, tenant: str) -> None:
    """Give a completed job's followers their copies. What fails is left to the janitor."""
    facts = {"job_id": leader_id, "tenant": tenant}
    try:
        ended = sharing.hand_out(leader_id)
    except FAULTS as error:
        log.warning("copies.delayed", error=type(error).__name__, **facts)
        return
    if ended:
        log.info("copies.handed_out", jobs=ended, **facts)


def hand_out_overdue(sharing: Sharing, redis: Redis) -> None:
    """Give followers their copies whose leader's worker did not."""
    for leader_id in sharing.overdue(OVERDUE_S):
        hand_out(sharing, leader_id, read_owner(redis, leader_id))
