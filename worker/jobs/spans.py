"""Spans of OpenTelemetry, sent in batches by a thread of their own: OTLP over HTTP, as protobuf.

Everything else is by OpenTelemetry's own variables: headers, certificates, sampling, batches. A
collector that is away costs spans and nothing else. Sets no global provider.
"""

import os
import threading
from collections.abc import Mapping
from typing import Literal

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span as InnerSpan
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

CLOSE_S = 3.0  # for the last batch; a worker that leaves has no more time
KINDS = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "consumer": SpanKind.CONSUMER,
}
PROPAGATOR = TraceContextTextMapPropagator()

Facts = Mapping[str, str | int | float]


class OpenSpan:
    """One span, until it ends."""

    def __init__(self, inner: InnerSpan) -> None:
        self._inner = inner

    @property
    def traceparent(self) -> str:
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier, set_span_in_context(self._inner, Context()))
        return carrier.get("traceparent", "")

    def name(self, name: str) -> None:
        self._inner.update_name(name)

    def note(self, facts: Facts) -> None:
        self._inner.set_attributes(facts)

    def fail(self, code: str) -> None:
        self._inner.set_attribute("error.type", code)
        self._inner.set_status(Status(StatusCode.ERROR, code))

    def end(self, at: float | None = None) -> None:
        self._inner.end(_nanoseconds(at))


class Spans:
    """The spans of one process."""

    def __init__(self, service: str) -> None:
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: service}
        # Not by itself at the end of the process: that waits for a collector that is away.
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("praxino")

    def begin(
        self,
        name: str,
        kind: Literal["internal", "server", "client", "consumer"] = "internal",
        parent: str = "",
        facts: Facts | None = None,
        at: float | None = None,
    ) -> OpenSpan:
        # Never below whatever span other packages have made current.
        context = PROPAGATOR.extract({"traceparent": parent}, Context())
        return OpenSpan(
            self._tracer.start_span(
                name, context, KINDS[kind], attributes=facts, start_time=_nanoseconds(at)
            )
        )

    def close(self) -> None:
        last = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        last.start()
        last.join(CLOSE_S)


def _nanoseconds(at: float | None) -> int | None:
    return None if at is None else int(at * 1e9)
