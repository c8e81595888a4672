"""What goes out goes only where it may, over real sockets and TLS."""

import io
import ipaddress
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from worker.jobs.addresses import is_public, is_within, read_networks
from worker.jobs.outbound import Outbound, Refused, Times, TooLarge, Unreachable
from worker.jobs.settings import JobSettings

LOOPBACK = ("127.0.0.1/32",)
NAME = "receiver.example"


def outbound(authority, *, networks=LOOPBACK, http=False, ca=True):
    return Outbound(
        JobSettings(
            redis_url=SecretStr("unix:///nowhere"),
            outbound_networks=networks,
            outbound_http=http,
            outbound_ca_file=authority.ca_file if ca else None,
        )
    )


@pytest.fixture
def out(authority):
    return outbound(authority)


@pytest.fixture
def names(monkeypatch):
    """Names of the test's own: to lists of answers, one a question, the last one for ever."""
    known, asked = {}, []
    system = socket.getaddrinfo

    def look_up(host, port, *rest, **more):
        if host not in known:
            return system(host, port, *rest, **more)
        asked.append(host)
        answer = known[host][0] if len(known[host]) == 1 else known[host].pop(0)
        return [entry for text in answer for entry in system(text, port, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known, asked


def fetch(out, url, limit=1 << 20, times=None):
    sink = io.BytesIO()
    fetched = out.fetch(url, sink, limit, times or Times())
    return fetched, sink.getvalue()


INSIDE = """
    0.0.0.0 10.1.2.3 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254 169.254.169.254
    172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255
    198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::8.8.8.8 64:ff9b::a00:1 64:ff9b:1::1 100::1 2001::1
    2001:db8::1 2002:7f00:1::1 3fff::1 5f00::1 fc00::1 fd12::1 fe80::1 fec0::1 ff02::1
""".split()
OUTSIDE = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1
    172.15.255.255 172.32.0.0 192.167.255.255 198.20.0.0 223.255.255.255 2606:4700::1111 2a00::1
""".split()


@pytest.mark.parametrize("text", INSIDE)
def test_no_special_range_is_public(text):
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", OUTSIDE)
def test_what_surrounds_them_is_public(text):
    assert is_public(ipaddress.ip_address(text))


@given(st.ip_addresses())
def test_nothing_is_public_that_the_standard_library_calls_special(address):
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


def test_an_allowed_network_does_not_hold_the_mapped_form():
    allowed = read_networks(("127.0.0.0/8", "fd00::/8"))
    held = [ipaddress.ip_address(text) for text in ("127.0.0.9", "fd00::7")]
    assert all(is_within(address, allowed) for address in held)
    assert not is_within(ipaddress.ip_address("::ffff:127.0.0.1"), allowed)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.2/",
        "https://localhost/",
        "https://2130706434/",
        "https://0x7f.2/",
        "https://127.2/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1:8443/",
        "https://0/",
    ],
)
def test_addresses_inside_are_refused_in_every_spelling(authority, url):
    with pytest.raises(Refused, match="not on the public internet"):
        outbound(authority, networks=()).check(url)


@pytest.mark.parametrize(
    ("url", "because"),
    [
        ("http://1.1.1.1/", "begin with https://"),
        ("ftp://1.1.1.1/", "begin with https://"),
        ("file:///etc/passwd", "begin with https://"),
        ("//1.1.1.1/", "begin with https://"),
        ("1.1.1.1", "begin with https://"),
        ("https://", "begin with https://"),
        ("https:///path", "begin with https://"),
        ("", "begin with https://"),
        ("https://user@1.1.1.1/", "user name"),
        ("https://user:word@1.1.1.1/", "user name"),
        ("https://1.1.1.1:0/", "port"),
        ("https://1.1.1.1:99999/", "port"),
        ("https://exa%20mple.com/", "malformed"),
        ("https://exa mple.com/", "malformed"),
        ("https://1.1.1.1/\n", "malformed"),
        ("https://999.1.1.1/", "malformed"),
        ("https://" + "a." * 127 + "com/", "longer than 253"),
        ("https://1.1.1.1/" + "a" * 9000, "9016 characters"),
    ],
)
def test_bad_urls_are_refused_with_a_reason(out, url, because):
    with pytest.raises(Refused, match=because):
        out.check(url)


def test_a_public_address_passes(out):
    out.check("https://1.1.1.1/hook?x=1#y")


def test_one_address_inside_among_others_refuses_the_name(out, names):
    names[0][NAME] = [["1.1.1.1", "192.168.0.1"]]
    with pytest.raises(Refused, match="not on the public internet"):
        out.check(f"https://{NAME}/")


def test_a_fetch_brings_the_bytes_and_what_they_were_called(out, receiver):
    fetched, body = fetch(out, receiver.url("bytes/100000"))
    assert body == b"x" * 100000
    assert (fetched.size_bytes, fetched.media_type) == (100000, "image/png")
    assert fetched.url == receiver.url("bytes/100000")


def test_the_name_is_resolved_once_and_kept_for_host_and_certificate(out, receiver, names):
    known, asked = names
    known[NAME] = [["127.0.0.1"], ["10.9.8.7"]]  # whoever asks twice is led astray
    fetch(out, receiver.url("bytes/5", NAME))
    assert asked == [NAME]
    (request,) = receiver.requests()
    assert request.headers["host"] == f"{NAME}:{receiver.port}"


def test_the_next_address_is_tried_when_one_is_dead(authority, receiver, names):
    names[0][NAME] = [["127.0.0.2", "127.0.0.1"]]  # nobody listens on the first
    out = outbound(authority, networks=("127.0.0.0/8",))
    assert fetch(out, receiver.url("bytes/5", NAME))[1] == b"xxxxx"


def test_a_certificate_of_another_name_or_authority_is_refused(out, receiver, names, authority):
    names[0]["other.example"] = [["127.0.0.1"]]
    with pytest.raises(Unreachable, match="certificate"):
        fetch(out, receiver.url("bytes/5", "other.example"))
    with pytest.raises(Unreachable, match="certificate"):
        fetch(outbound(authority, ca=False), receiver.url("bytes/5"))
    assert receiver.requests() == []


def test_proxies_of_the_environment_are_not_asked(out, receiver, plain_receiver, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, plain_receiver.url(""))
    assert fetch(out, receiver.url("bytes/5"))[1] == b"xxxxx"
    assert plain_receiver.requests() == []


def test_three_redirects_are_followed_and_a_fourth_is_not(out, receiver):
    assert fetch(out, receiver.url("redirect/3?to=/bytes/5"))[1] == b"xxxxx"
    with pytest.raises(Unreachable, match="more than 3"):
        fetch(out, receiver.url("redirect/4?to=/bytes/5"))
    assert "/bytes/5" not in [request.path for request in receiver.requests()[4:]]


@pytest.mark.parametrize(
    ("to", "because"),
    [
        ("https://127.0.0.2:{port}/bytes/5", "not on the public internet"),
        ("https://localhost:{port}/bytes/5", "not on the public internet"),
        ("http://127.0.0.1:{port}/bytes/5", "begin with https://"),
        ("https://u:p@127.0.0.1:{port}/bytes/5", "user name"),
        ("file:///etc/passwd", "begin with https://"),
        ("https://[bad/", "malformed"),
    ],
)
def test_every_redirect_is_checked_again(out, receiver, names, to, because):
    names[0]["localhost"] = [["127.0.0.3"]]
    url = receiver.url("redirect/1?to=" + to.format(port=receiver.port).replace("%", "%25"))
    with pytest.raises(Refused, match=because):
        fetch(out, url)
    assert len(receiver.requests()) == 1


def test_more_bytes_than_allowed_are_not_taken(out, receiver):
    sink = io.BytesIO()
    with pytest.raises(TooLarge, match="1000 bytes"):
        out.fetch(receiver.url("bytes/1001"), sink, 1000)
    assert sink.getvalue() == b""  # declared too large: not even begun
    with pytest.raises(TooLarge, match="5000 bytes"):
        out.fetch(receiver.url("endless"), sink, 5000)
    assert len(sink.getvalue()) <= 5000
    assert fetch(out, receiver.url("bytes/1000"), 1000)[0].size_bytes == 1000


def test_an_encoded_answer_is_refused_since_it_may_be_a_bomb(out, receiver):
    with pytest.raises(Unreachable, match="encoded"):
        fetch(out, receiver.url("bytes/5?Content_Encoding=gzip"))


@pytest.mark.parametrize("status", [204, 404, 500])
def test_only_200_is_a_fetch(out, receiver, status):
    with pytest.raises(Unreachable, match=f"answered {status}"):
        fetch(out, receiver.url(f"status/{status}"))


def test_silence_and_drips_end_in_time(out, receiver):
    for path, times in (
        ("silent", Times(idle_s=0.2, total_s=30)),
        ("silent", Times(total_s=0.4)),
        ("drip", Times(idle_s=5, total_s=0.6)),
    ):
        began = time.monotonic()
        with pytest.raises(Unreachable, match="in time"):
            fetch(out, receiver.url(path), times=times)
        assert time.monotonic() - began < 3.0


def test_a_resolver_that_hangs_ends_in_time(out, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(1) or [])
    began = time.monotonic()
    with pytest.raises(Unreachable, match="cannot be resolved"):
        fetch(out, f"https://{NAME}/", times=Times(connect_s=0.2))
    assert time.monotonic() - began < 1.5


def test_an_unknown_name_is_the_callers_fault_and_a_dead_port_is_not(out, receiver):
    with pytest.raises(Refused, match="unknown"):
        out.check("https://" + "a" * 64 + ".example/")
    receiver.stop()
    with pytest.raises(Unreachable, match="could not be reached"):
        fetch(out, receiver.url("bytes/5"))


def test_a_post_answers_the_status_and_follows_no_redirect(out, receiver):
    assert out.post(receiver.url("status/204"), b"{}", {"X-Own": "1"}) == 204
    assert out.post(receiver.url("redirect/1?to=/status/200"), b"{}", {}) == 302
    first, second = receiver.requests()
    assert (first.method, first.body, first.headers["x-own"]) == ("POST", b"{}", "1")
    assert second.path.startswith("/redirect")


def test_plain_http_goes_only_to_allowed_networks_and_only_if_allowed(authority, plain_receiver):
    url = plain_receiver.url("bytes/5")
    with pytest.raises(Refused, match="begin with https://"):
        outbound(authority).check(url)
    plain = outbound(authority, http=True)
    assert fetch(plain, url)[1] == b"xxxxx"
    with pytest.raises(Refused, match="https:// only"):
        plain.check("http://1.1.1.1/")


def test_networks_that_are_none_are_refused_by_name():
    with pytest.raises(ValidationError, match="outbound_networks"):
        JobSettings(redis_url=SecretStr("unix:///x"), outbound_networks="10.0.0.0/8, here")
    read = JobSettings(redis_url=SecretStr("unix:///x"), outbound_networks="10.0.0.0/8,fd00::/8")
    assert read.outbound_networks == ("10.0.0.0/8", "fd00::/8")
