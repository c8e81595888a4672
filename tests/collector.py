"""A collector of traces: an OTLP receiver over HTTP that keeps what it is sent."""

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Seen:
    """One span as it arrived."""

    service: str  # of the process that sent it
    name: str
    trace: str
    id: str
    parent: str  # "": it begins a trace
    kind: str
    facts: dict[str, str | int]
    failed: bool
    began: float  # Unix seconds
    ended: float


class Collector:
    """Listens on a port of loopback from its making until `close`."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                found = self.path == "/v1/traces"
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def spans(self) -> list[Seen]:
        """All that arrived, by their beginning."""
        found = [span for body in list(self.bodies) for span in read_spans(body)]
        return sorted(found, key=lambda span: span.began)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def read_spans(body: bytes) -> list[Seen]:
    """The spans of one request. raises DecodeError"""
    found = []
    for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = {fact.key: fact.value.string_value for fact in sent.resource.attributes}
        for scope in sent.scope_spans:
            for span in scope.spans:
                facts = {f.key: f.value.string_value or f.value.int_value for f in span.attributes}
                found.append(
                    Seen(
                        service=resource["service.name"],
                        name=span.name,
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        kind=span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                        facts=facts,
                        failed=span.status.code == span.status.STATUS_CODE_ERROR,
                        began=span.start_time_unix_nano / 1e9,
                        ended=span.end_time_unix_nano / 1e9,
                    )
                )
    return found
