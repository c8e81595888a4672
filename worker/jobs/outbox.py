"""The outbox: letters that tell receivers how their jobs ended, until they are delivered.

A letter is written by the script that ends the job, in the same instant. It waits by due time,
is held by one sender at a time, and is dead when every try has failed. Sending is not done here.
"""

import hashlib
import json
from typing import Literal, cast

from redis import Redis

from worker.jobs import keys
from worker.jobs.contract import Record, Status
from worker.jobs.scripts import Scripts
from worker.jobs.settings import DAY_S, JobSettings
from worker.jobs.signing import new_secret

EVERYBODYS = ""  # stands for the secrets of the settings, whatever they are by then
ROTATION_S = DAY_S  # an old secret signs for this long beside the new one

Outcome = Literal["delivered", "failed", "dead", "gone"]


class Letter(Record):
    """One event on its way to one receiver. Times are Unix seconds of the queue server."""

    id: str  # the same in every try, and for ever
    job: str
    tenant: str
    url: str
    status: Status
    created_at: float  # when the job ended
    asked_at: float  # when somebody last wanted it at this address
    tries: int
    reason: str | None = None  # why the last try failed
    tried_at: float | None = None
    traceparent: str = ""  # of the call that ordered the job

    @property
    def type(self) -> str:
        """The event's name on the wire."""
        return f"video.{self.status.value}"

    def body(self) -> bytes:
        """The JSON that is sent, the same bytes in every try."""
        event = {
            "id": self.id,
            "object": "event",
            "created_at": int(self.created_at),
            "type": self.type,
            "data": {"id": self.job, "status": self.status.value},
        }
        return json.dumps(event, separators=(",", ":")).encode()


class Outbox:
    """All letters on one queue server. Safe to share between threads."""

    def __init__(self, redis: Redis, settings: JobSettings) -> None:
        self._redis = redis
        self._scripts = Scripts(redis)
        self._shared = tuple(secret.get_secret_value() for secret in settings.webhook_secrets)

    # The sender

    def due(self, limit: int) -> list[Letter]:
        """Letters whose time has come, longest due first; held ones are not among them."""
        now = self._now()
        ids = self._redis.zrangebyscore(keys.OUTBOX, "-inf", now, start=0, num=limit)
        return self._letters(cast("list[bytes]", ids))

    def hold(self, letter_id: str, seconds: float) -> bool:
        """Keep a due letter from other senders; False if one was faster.

        Unsettled, it is due again after so many seconds.
        """
        return bool(self._scripts.call("hold", letter_id, seconds) == 1)

    def settle(self, letter: Letter, outcome: Outcome, reason: str, again_in_s: float = 0) -> bool:
        """Write down how a try ended; may be repeated.

        outcome     failed: to be tried again; dead: given up; gone: the receiver wants no more
        again_in_s  until the next try of a failed one
        returns     False if another sender has settled this try meanwhile
        """
        gone = _gone_key(letter)
        result = self._scripts.call(
            "settle", letter.id, letter.tries, outcome, reason, again_in_s, gone
        )
        return bool(result == "ok")

    def is_unwanted(self, letter: Letter) -> bool:
        """Whether the receiver said "gone" after it was last asked to be called."""
        said_at = cast("bytes | None", self._redis.get(_gone_key(letter)))
        return said_at is not None and float(said_at) > letter.asked_at

    # The operator

    def dead(self) -> list[Letter]:
        """Letters that were given up within 30 days, newest first."""
        found = self._redis.zrevrange(keys.DEAD, 0, -1)
        return self._letters(cast("list[bytes]", found))

    def redeliver(self, letter_id: str) -> bool:
        """Try a dead letter again from the start; False if there is none of this id."""
        return bool(self._scripts.call("redeliver", letter_id) == 1)

    def waiting(self) -> int:
        """How many letters are on their way, due or not."""
        return int(self._redis.zcard(keys.OUTBOX))

    def deliveries(self) -> dict[str, int]:
        """How many tries ended how, ever."""
        counts = cast("dict[bytes, bytes]", self._redis.hgetall(keys.DELIVERIES))
        return {outcome.decode(): int(count) for outcome, count in counts.items()}

    # Secrets

    def secrets(self, tenant: str) -> tuple[str, ...]:
        """What letters to a tenant are signed with, newest first: its own, else everybody's."""
        own = self._valid(tenant) or [(EVERYBODYS, None)]
        expanded = (self._shared if secret == EVERYBODYS else (secret,) for secret, _ in own)
        return tuple(secret for secrets in expanded for secret in secrets)

    def rotate(self, tenant: str) -> str:
        """Give a tenant a new secret of its own; those before sign for a day more."""
        until = self._now() + ROTATION_S
        fresh = new_secret()
        before = self._valid(tenant) or [(EVERYBODYS, None)]
        kept = [(secret, end or until) for secret, end in before]
        self._redis.hset(keys.SECRETS, tenant, json.dumps([(fresh, None), *kept]))
        return fresh

    def _valid(self, tenant: str) -> list[tuple[str, float | None]]:
        text = cast("bytes | None", self._redis.hget(keys.SECRETS, tenant))
        if text is None:
            return []
        now = self._now()
        return [(secret, end) for secret, end in json.loads(text) if end is None or end > now]

    # Inner steps

    def _letters(self, ids: list[bytes]) -> list[Letter]:
        pipeline = self._redis.pipeline(transaction=False)
        for letter_id in ids:
            pipeline.hgetall(keys.letter(letter_id.decode()))
        letters = []
        for letter_id, found in zip(ids, pipeline.execute(), strict=True):
            if found:  # not settled or expired meanwhile
                fields = {name.decode(): value.decode() for name, value in found.items()}
                letters.append(Letter.model_validate(fields | {"id": letter_id.decode()}))
        return letters

    def _now(self) -> float:
        seconds, microseconds = self._redis.time()
        return seconds + microseconds / 1e6


def _gone_key(letter: Letter) -> str:
    return keys.gone(letter.tenant, hashlib.sha256(letter.url.encode()).hexdigest())
