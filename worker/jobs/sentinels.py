"""URLs that name sentinels in place of a queue server: they are asked who the primary is.

redis+sentinel://user:password@host:26379,host:26379/name/0?option=value, or rediss+sentinel://
where sentinels and servers speak TLS. User, password and options are the servers';
`sentinel_username` and `sentinel_password` among the options are what the sentinels themselves
want. Knows no client.
"""

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

SCHEMES = ("redis+sentinel://", "rediss+sentinel://")
PORT = 26379
OWN = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True)
class Sentinels:
    """Whom to ask, for what, and how."""

    hosts: tuple[tuple[str, int], ...]
    name: str  # of the primary, as the sentinels' configuration calls it
    credentials: dict[str, str]  # `username` and `password` for the sentinels
    server: str  # what the URL of the primary would be, if its host were `primary`


def read_sentinels(url: str) -> Sentinels | None:
    """What a URL says; None if it names a server. raises ValueError, which never quotes it"""
    if not url.startswith(SCHEMES):
        return None
    parts = urlsplit(url)
    user, mark, hosts = parts.netloc.rpartition("@")
    name, _, database = parts.path.strip("/").partition("/")
    if not (hosts and name) or not (database or "0").isdecimal():
        raise ValueError("must name hosts of sentinels, and the primary: …://host,host/name")
    options = parse_qsl(parts.query, keep_blank_values=True)
    query = urlencode([pair for pair in options if pair[0] not in OWN])
    scheme = parts.scheme.removesuffix("+sentinel")
    return Sentinels(
        hosts=tuple(map(_read_host, hosts.split(","))),
        name=name,
        credentials={key.removeprefix("sentinel_"): text for key, text in options if key in OWN},
        server=f"{scheme}://{user}{mark}primary/{database or 0}" + (query and f"?{query}"),
    )


def _read_host(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:  # it would quote what it could not read
        host, port = None, None
    if not host:
        raise ValueError("must name each sentinel as host or host:port")
    return host, port or PORT
