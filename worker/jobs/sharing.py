"""Jobs that share one run: what was made before is found, and followers get their copies.

Only ever within a tenant. Each job has its own row and its own files, so that cancelling or
deleting one never touches another.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import cast
from uuid import uuid4

from redis import Redis

from worker.jobs import keys, scripts, transport
from worker.jobs.artifacts import SIDECAR, ArtifactStore, job_prefix
from worker.jobs.contract import Artifact, Job, JobResult, Status
from worker.jobs.outcomes import Made
from worker.jobs.store import JobStore

PICTURES = ("video", "thumbnail", "spritesheet", "last_frame")


class Sharing:
    """The shared runs of one queue server. Safe to share between threads."""

    def __init__(self, store: JobStore, artifacts: ArtifactStore) -> None:
        self._redis: Redis = store.redis
        self._store = store
        self._artifacts = artifacts

    def find(self, tenant: str, share: str, weights: str) -> Job | None:
        """The job of the tenant that made this film with these weights, while it is kept."""
        found = cast("bytes | None", self._redis.get(f"{keys.SHARE}{tenant}:{share}"))
        if found is None:
            return None
        for job in self._store.peek([found.decode()]):
            kept = job.expires_at is not None and job.expires_at > time.time()
            done = job.status is Status.COMPLETED and job.result is not None
            if done and kept and job.tenant == tenant:
                return job if job.result and job.result.model_sha256 == weights else None
        return None

    def copy(self, made: Job, job_id: str) -> Made:
        """What a completed job made, under keys of another job of its tenant.

        raises FileNotFoundError if it is gone, StorageFault; nothing is left behind
        """
        assert made.result is not None
        token = uuid4().hex
        prefix = f"{job_prefix(made.tenant, job_id)}{token}/"
        try:
            result = self._copy_result(made.result, prefix, job_id, made.id)
        except BaseException:
            self._artifacts.delete_prefix(prefix)
            raise
        return Made(made.id, token, result)

    def drop(self, made: Made, tenant: str, job_id: str) -> None:
        """Delete a copy that no row names."""
        self._artifacts.delete_prefix(f"{job_prefix(tenant, job_id)}{made.token}/")

    def hand_out(self, leader_id: str) -> int:
        """Give every follower of an ended job its copy, or let them go on without.

        returns how many were ended. Safe to repeat, and to run twice at once. raises StorageFault
        """
        ended = 0
        for follower_id in self.followers(leader_id):
            leaders = self._store.peek([leader_id])
            if not leaders or leaders[0].result is None:
                break
            try:
                made = self.copy(leaders[0], follower_id)
            except FileNotFoundError:  # deleted, or past its time
                break
            ended += self._adopt(follower_id, leaders[0].tenant, made)
        else:
            return ended
        self._script("release", leader_id)
        return ended

    def followers(self, leader_id: str) -> list[str]:
        """The jobs that wait for what this one makes, the oldest first."""
        found = self._redis.zrange(keys.FOLLOWERS + leader_id, 0, -1)
        return [member.decode() for member in cast("list[bytes]", found)]

    def overdue(self, seconds: float) -> list[str]:
        """Completed jobs whose followers have waited for their copies so long."""
        found = self._redis.zrangebyscore(keys.HANDOUT, "-inf", time.time() - seconds)
        return [member.decode() for member in cast("list[bytes]", found)]

    def _adopt(self, follower_id: str, tenant: str, made: Made) -> bool:
        entry = transport.entry_key(follower_id)
        result = made.result.model_dump_json()
        if self._script("adopt", follower_id, made.by, made.token, result, entry) == "ok":
            return True
        self.drop(made, tenant, follower_id)
        return False

    def _script(self, name: str, *args: str) -> str:
        return str(scripts.run(self._redis, name, *args))

    def _copy_result(self, result: JobResult, prefix: str, job_id: str, made_by: str) -> JobResult:
        # The sidecar first: newly written, it keeps the others, whose age is that of the
        # originals, from being taken for leftovers before a row names them.
        copies: dict[str, Artifact] = {
            "sidecar": self._copy_sidecar(result.sidecar, prefix + SIDECAR, job_id, made_by)
        }
        for name in PICTURES:
            artifact = getattr(result, name)
            if artifact is not None:
                key = prefix + artifact.key.rpartition("/")[2]
                copies[name] = self._artifacts.copy(artifact, key)
        return result.model_copy(update=copies)

    def _copy_sidecar(self, sidecar: Artifact, key: str, job_id: str, made_by: str) -> Artifact:
        """The provenance, saying whose run it tells of."""
        with self._artifacts.open(sidecar.key) as file:
            told = json.load(file) | {"job_id": job_id, "made_by_job_id": made_by}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / SIDECAR
            path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
            return self._artifacts.put_file(key, path)
