"""Traces: what a job's way took, part by part, over all processes that it passes.

Off, and without their packages loaded, unless OTEL_EXPORTER_OTLP_ENDPOINT (or
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) names a collector and the extra `traces` is installed. What is
told of a part are ids, kinds and numbers; never a prompt, a name of a file or anything else that
a caller wrote.
"""

import os
from collections.abc import Mapping
from typing import Literal, Protocol

import structlog

log = structlog.get_logger()

Kind = Literal["internal", "server", "client", "consumer"]
Facts = Mapping[str, str | int | float]

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Span(Protocol):
    """One part of the way, from its beginning until `end`."""

    @property
    def traceparent(self) -> str:
        """What a part of another process begins below: W3C Trace Context; "" if nobody traces."""
        ...

    def name(self, name: str) -> None:
        """Call it otherwise than at its beginning."""
        ...

    def note(self, facts: Facts) -> None:
        """Add attributes."""
        ...

    def fail(self, code: str) -> None:
        """Mark it as failed, by a code of ours: no message, it may quote a caller."""
        ...

    def end(self, at: float | None = None) -> None:
        """It is over, now or at this Unix second."""
        ...


class Tracing(Protocol):
    """Where the parts of one process are told. Safe to share between threads."""

    def begin(
        self,
        name: str,
        kind: Kind = "internal",
        parent: str = "",
        facts: Facts | None = None,
        at: float | None = None,
    ) -> Span:
        """Begin a part, now or at a Unix second.

        parent  traceparent of the part that it belongs to; "" or nonsense begins a trace
        """
        ...

    def close(self) -> None:
        """Send what is not yet sent, for at most a few seconds."""
        ...


class Untraced:
    """Nobody wants to know: does nothing, as a process or as a part of one."""

    traceparent = ""

    def begin(
        self,
        name: str,
        kind: Kind = "internal",
        parent: str = "",
        facts: Facts | None = None,
        at: float | None = None,
    ) -> "Untraced":
        return self

    def name(self, name: str) -> None:
        return

    def note(self, facts: Facts) -> None:
        return

    def fail(self, code: str) -> None:
        return

    def end(self, at: float | None = None) -> None:
        return

    def close(self) -> None:
        return


def open_tracing(role: str) -> Tracing:
    """What a process tells its parts to, by the variables that all of OpenTelemetry reads.

    role  api, worker or webhooks: the service is then called praxino-role, if not otherwise by
          OTEL_SERVICE_NAME
    """
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if disabled or not any(os.environ.get(name, "").strip() for name in ENDPOINTS):
        return Untraced()
    try:
        from worker.jobs.spans import Spans  # takes a second to load, so only if it is used
    except ImportError as error:
        log.warning("traces.unavailable", package=error.name, remedy="pip install praxino[traces]")
        return Untraced()
    return Spans(f"praxino-{role}")
