"""Links to content that need no API key: whoever holds one may fetch one file for a while.

A link is signed by HMAC-SHA256 over path, variant and the moment it ends. The secret is made once
and kept on the queue server, so that every API process of a service agrees on it.
"""

import base64
import hashlib
import hmac
import secrets
import time
from urllib.parse import urlencode

from redis import Redis

from worker.jobs import keys

SECRET_BYTES = 32


class Links:
    """Writes and checks links. Safe to share between threads."""

    def __init__(self, redis: Redis, public_url: str | None, ttl_s: int) -> None:
        """public_url  prefix of every link; None makes them relative to the server"""
        self._redis = redis
        self._public_url = (public_url or "").rstrip("/")
        self._ttl_s = ttl_s
        self._known: bytes | None = None

    def write(self, path: str, variant: str, gone_at: float | None) -> str:
        """A link to a variant of the content at `path`.

        It holds for one to two times the configured time, and is the same one all that while, so
        that caches know it again; never longer than until `gone_at`, when the content is deleted.
        """
        ends = (int(time.time()) // self._ttl_s + 2) * self._ttl_s
        expires = ends if gone_at is None else min(ends, int(gone_at))
        signature = self._sign(path, variant, expires)
        query = urlencode({"variant": variant, "expires": expires, "signature": signature})
        return f"{self._public_url}{path}?{query}"

    def allows(self, path: str, variant: str, expires: int | None, signature: str) -> bool:
        """Whether this is a link of ours whose time is not over."""
        if expires is None or expires <= time.time():
            return False
        expected = self._sign(path, variant, expires)
        return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogateescape"))

    def _sign(self, path: str, variant: str, expires: int) -> str:
        text = f"{path}\n{variant}\n{expires}"
        digest = hmac.digest(self._secret(), text.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def _secret(self) -> bytes:
        if self._known is None:
            # The first process to come decides; all others read what it wrote.
            self._redis.set(keys.LINK_SECRET, secrets.token_hex(SECRET_BYTES), nx=True)
            found = self._redis.get(keys.LINK_SECRET)
            assert isinstance(found, bytes)
            self._known = found
        return self._known
