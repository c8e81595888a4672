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
from worker.jobs.tracing import Span, Tracing, Untraced

log = structlog.get_logger(__name__)

SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS".split())
UNSEEN = frozenset({"/healthz", "/health", "/readyz", "/metrics"})  # asked all day: not traced


class Envelope:
    """ASGI middleware around everything: no answer leaves without its headers, no fault bare."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing) -> None:
        self.app = app
        self.metrics = metrics
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call = Call(scope, send, self.metrics, self.begin_span(scope))
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
        finally:
            call.end()

    def begin_span(self, scope: Scope) -> Span:
        """The call's part of its trace, which may be the caller's; handlers find it again."""
        tracing = Untraced() if scope["path"] in UNSEEN else self.tracing
        parent = Headers(scope=scope).get("traceparent", "")
        span = tracing.begin(method_of(scope), "server", parent)
        scope.setdefault("state", {})["span"] = span
        return span


def method_of(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in METHODS else "other"


def place(error: Exception) -> str:
    """Where it happened. Not its message, which may quote a prompt; nor local variables."""
    return "".join(traceback.format_tb(error.__traceback__))


class Call:
    """One request on its way through."""

    def __init__(self, scope: Scope, send: Send, metrics: Metrics, span: Span) -> None:
        self.scope = scope
        self.inner = send
        self.metrics = metrics
        self.span = span
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
        method = method_of(self.scope)
        self.metrics.count_request(method, self.route(), self.status, self.elapsed_s())

    def route(self) -> str:
        return getattr(self.scope.get("route"), "path", "unmatched")

    def end(self) -> None:
        """The call is over, answered or not."""
        method, route = method_of(self.scope), self.route()
        self.span.name(f"{method} {route}")
        facts = {"http.request.method": method, "http.route": route}
        self.span.note(facts | {"http.response.status_code": self.status})
        if self.status >= 500 or not self.status:
            self.span.fail(str(self.status))
        self.span.end()
