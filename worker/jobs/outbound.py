"""Guarded HTTP out, to addresses that strangers chose: inputs to fetch, callbacks to send.

A name is resolved once; every address found must be allowed, and the connection is made to one
of exactly these, with the name kept for Host and TLS. It never looks at what it fetches.
"""

import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Protocol

import httpcore
import httpx

from worker.jobs.addresses import is_public, is_within, read_address, read_networks
from worker.jobs.dialer import Dialer, OutboundError, Refused, TooLarge, Unreachable, look_up
from worker.jobs.settings import JobSettings

__all__ = ["Fetched", "Outbound", "OutboundError", "Refused", "Times", "TooLarge", "Unreachable"]

MAX_URL_CHARS = 8192
HOST = re.compile(rb"[0-9A-Za-z._:-]+")
MAX_HOST_CHARS = 253  # of any name in the DNS
MAX_REDIRECTS = 3
MAX_ADDRESSES = 4  # of one name, tried in turn
REDIRECTS = frozenset({301, 302, 303, 307, 308})
PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True)
class Times:
    """How long a call may take, in seconds."""

    connect_s: float = 10.0  # resolving and connecting, and again the TLS handshake
    idle_s: float = 10.0  # between two reads or writes
    total_s: float = 60.0  # all of it, redirects included


FETCH = Times()
CALLBACK = Times(total_s=15.0)


@dataclass(frozen=True)
class Fetched:
    """What a fetch brought, as the server called it; trust neither."""

    url: str  # after redirects
    media_type: str  # without parameters, lower case; may be empty
    size_bytes: int


class Sink(Protocol):
    """Where bytes go: an open binary file."""

    def write(self, data: bytes, /) -> object: ...


class Outbound:
    """The one way out of this process. Safe to share between threads; holds no connection."""

    def __init__(self, settings: JobSettings) -> None:
        self._networks = read_networks(settings.outbound_networks)
        self._plain = settings.outbound_http
        self._ca_file = settings.outbound_ca_file

    def check(self, url: str) -> None:
        """Whether a call to this URL would be tried at all, found out without connecting.

        raises Refused, or Unreachable if its name cannot be resolved at the moment
        """
        parsed = self._parse(url)
        self._resolve(parsed, time.monotonic() + CALLBACK.connect_s)

    def fetch(
        self, url: str, into: IO[bytes] | Sink, max_bytes: int, times: Times = FETCH
    ) -> Fetched:
        """GET a URL into an open file, chunk by chunk, over at most three redirects.

        raises OutboundError; the file then holds a part of at most `max_bytes`
        """
        deadline = time.monotonic() + times.total_s
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        for _ in range(MAX_REDIRECTS + 1):
            parsed = self._parse(url)
            with self._open("GET", parsed, headers, None, times, deadline) as response:
                if response.status not in REDIRECTS:
                    size_bytes = _save(response, into, max_bytes)
                    return Fetched(str(parsed), _media_type(response), size_bytes)
                url = _location(parsed, response)
        raise Unreachable(f"the server redirected more than {MAX_REDIRECTS} times")

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], times: Times = CALLBACK
    ) -> int:
        """POST a body; follows no redirect and reads nothing of the answer.

        returns the status, whatever it is
        raises  Refused, Unreachable
        """
        parsed = self._parse(url)
        deadline = time.monotonic() + times.total_s
        with self._open("POST", parsed, headers, body, times, deadline) as response:
            return response.status

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = httpx.create_ssl_context(trust_env=False)
        if self._ca_file is not None:
            context.load_verify_locations(self._ca_file)
        return context

    def _parse(self, url: str) -> httpx.URL:
        if len(url) > MAX_URL_CHARS:
            raise Refused(f"the URL has {len(url)} characters; the limit is {MAX_URL_CHARS}")
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise Refused("the URL is malformed") from error
        schemes = ("https", "http") if self._plain else ("https",)
        if parsed.scheme not in schemes or not parsed.raw_host:
            raise Refused(f"the URL must begin with {' or '.join(s + '://' for s in schemes)}")
        if len(parsed.raw_host) > MAX_HOST_CHARS:
            raise Refused(f"the URL's host is longer than {MAX_HOST_CHARS} characters")
        if parsed.userinfo:
            raise Refused("the URL must not hold a user name or password")
        if not HOST.fullmatch(parsed.raw_host):
            raise Refused("the URL is malformed")
        if not 1 <= (parsed.port or PORTS[parsed.scheme]) <= 65_535 or parsed.port == 0:
            raise Refused("the URL's port must be between 1 and 65535")
        return parsed.copy_with(fragment=None)

    def _resolve(self, url: httpx.URL, deadline: float) -> list[str]:
        """Numeric addresses of the URL's host, every one of them allowed."""
        host = url.raw_host.decode("ascii")
        found = look_up(host, url.port or PORTS[url.scheme], deadline - time.monotonic())
        for text in found:
            address = read_address(text)
            inside = is_within(address, self._networks)
            if not inside and not is_public(address):
                raise Refused(f"the host {host!r} is not on the public internet")
            if not inside and url.scheme != "https":
                raise Refused(f"the host {host!r} may be called by https:// only")
        return found[:MAX_ADDRESSES]

    @contextmanager
    def _open(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        body: bytes | None,
        times: Times,
        deadline: float,
    ) -> Iterator[httpcore.Response]:
        backend = Dialer(lambda until: self._resolve(url, until), deadline)
        extensions = {
            "timeout": {
                "connect": times.connect_s,
                "read": times.idle_s,
                "write": times.idle_s,
                "pool": times.idle_s,
            }
        }
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        own = {"Host": url.netloc.decode("ascii"), "User-Agent": "praxino", "Connection": "close"}
        sent = [*own.items(), *headers.items()]
        try:
            with (
                httpcore.ConnectionPool(self._tls, network_backend=backend) as pool,
                pool.stream(
                    method, target, headers=sent, content=body, extensions=extensions
                ) as response,
            ):
                yield response
        except httpcore.TimeoutException as error:
            raise Unreachable("the server did not answer in time") from error
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.UnsupportedProtocol,
        ) as error:
            raise Unreachable(_reason(error)) from error


def _location(url: httpx.URL, response: httpcore.Response) -> str:
    for name, value in response.headers:
        if name.lower() == b"location":
            try:
                return str(url.join(value.decode("latin-1")))
            except httpx.InvalidURL as error:
                raise Refused("the server redirected to a malformed URL") from error
    raise Unreachable(f"the server answered {response.status} without a location")


def _save(response: httpcore.Response, into: Sink, max_bytes: int) -> int:
    if response.status != 200:
        raise Unreachable(f"the server answered {response.status}")
    if _header(response, b"content-encoding") not in ("", "identity"):
        raise Unreachable("the server encoded what was asked for plain")
    declared = _header(response, b"content-length")
    size_bytes = int(declared) if declared.isdecimal() else 0
    too_large = TooLarge(f"the server sent more than {max_bytes} bytes")
    if size_bytes > max_bytes:
        raise too_large
    size_bytes = 0
    for chunk in response.iter_stream():
        size_bytes += len(chunk)
        if size_bytes > max_bytes:
            raise too_large
        into.write(chunk)
    return size_bytes


def _header(response: httpcore.Response, wanted: bytes) -> str:
    for name, value in response.headers:
        if name.lower() == wanted:
            return value.decode("latin-1").strip().lower()
    return ""


def _media_type(response: httpcore.Response) -> str:
    return _header(response, b"content-type").partition(";")[0].strip()


def _reason(error: Exception) -> str:
    if isinstance(error.__cause__, ssl.SSLError) or isinstance(error.__context__, ssl.SSLError):
        return "the server's certificate or encryption was not accepted"
    if isinstance(error, httpcore.ConnectError):
        return "the server could not be reached"
    return "the server's answer broke off or was malformed"
