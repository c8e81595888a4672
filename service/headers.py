"""The outermost layer: request ids, timing headers, counts, and the last net for exceptions."""

import re
import time
import traceback
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import answer_error
from service.metrics import Metrics
from service.quotas import quota_headers

log = structlog.get_logger(__name__)

SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS".split())


class Envelope:
    """ASGI middleware around everything: no answer leaves without its headers, no fault bare."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call = Call(scope, send, self.metrics)
        try:
            await self.app(scope, receive, call.send)
        except Exception as error:
            log.error(
                "http.failed",
                request_id=call.request_id,
                error=type(error).__name__,
                place=place(error),
            )
            if call.status:
                raise  # half an answer is out; only a broken connection tells so
            response = await answer_error(Request(scope), error)
            await response(scope, receive, call.send)


def place(error: Exception) -> str:
    """Where it happened. Not its message, which may quote a prompt; nor local variables."""
    return "".join(traceback.format_tb(error.__traceback__))


class Call:
    """One request on its way through."""

    def __init__(self, scope: Scope, send: Send, metrics: Metrics) -> None:
        self.scope = scope
        self.inner = send
        self.metrics = metrics
        self.began = time.perf_counter()
        self.status = 0  # until the answer has begun
        asked = Headers(scope=scope).get("x-request-id", "")
        self.request_id = asked if SANE_ID.fullmatch(asked) else f"req_{uuid4().hex}"

    async def send(self, message: Message) -> None:
        """Pass a message of the answer on, with our headers on its first."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["openai-processing-ms"] = str(round(self.elapsed_s() * 1000))
            quota = self.scope.get("state", {}).get("quota")
            headers.update(quota_headers(quota) if quota else {})
        await self.inner(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.count()

    def elapsed_s(self) -> float:
        return time.perf_counter() - self.began

    def count(self) -> None:
        route = getattr(self.scope.get("route"), "path", "unmatched")
        method = self.scope["method"] if self.scope["method"] in METHODS else "other"
        self.metrics.count_request(method, route, self.status, self.elapsed_s())
