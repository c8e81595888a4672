"""Whatever a body holds, the answer is a job or a refusal that says why; never a fault."""

import json
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import ApiError
from service.fields import BY_NAME
from service.forms import RawBody, parse_body
from service.intake import read_draft
from tests.cards import plain_card
from worker.jobs.catalog import TASKS
from worker.jobs.contract import VideoRequest

POCKET = plain_card()
CARDS = {"pocket": POCKET, "able": replace(POCKET, id="able", tasks=frozenset(TASKS))}
EASY = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
OVER_HTTP = settings(EASY, max_examples=50)

ANY_TEXT = st.text(st.characters(codec=None), max_size=8)  # lone surrogates included
KNOWN = st.sampled_from([*BY_NAME, "extra_body", "tau", "wings"])
NAMES = KNOWN | ANY_TEXT
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=30)
    | st.sampled_from(["data:image/png;base64,AA", "file-" + "0" * 32, "https://x.example/a"])
    | st.sampled_from(["64x64", "2", "16", "[1]", "{", '{"a": NaN}', "true", "9" * 400, "1e999"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=6,
)
BODIES = st.dictionaries(NAMES, VALUES, max_size=6)
PROMPTED = st.builds(lambda body: {"prompt": "a fox"} | body, BODIES)
SEGMENTS = st.sampled_from(["", "[]", "[a]", "[a][b]", "[][a]", "[][b]", "[", "]", "[[]]"])
PAIRS = st.lists(
    st.tuples(
        st.builds(str.__add__, KNOWN | st.text(max_size=8), SEGMENTS),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    ),
    max_size=8,
)


def accepted_or_explained(answer):
    assert answer.status_code in (200, 400, 403, 413), answer.text
    if answer.status_code == 200:
        assert answer.json()["object"] == "video"
    else:
        assert answer.json()["error"]["message"]


def refusal_of(call):
    """What a call refused with, or None; anything but a refusal passes through."""
    try:
        call()
    except ApiError as error:
        return error
    return None


@EASY
@given(BODIES | PROMPTED, st.sampled_from(["pocket", "able"]))
def test_intake_only_ever_refuses(body, model):
    raw = json.dumps(body).encode()
    orders = []

    def read():
        draft = read_draft(parse_body(RawBody(json=raw)), CARDS, model, "/v1/videos")
        orders.append(draft.complete())

    refusal = refusal_of(read)
    if refusal is None:
        assert VideoRequest.model_validate_json(orders[0].request.model_dump_json())
    else:
        assert refusal.status in (400, 403)
        assert refusal.message.encode()
        assert (refusal.param or "").encode() is not None


@EASY
@given(PAIRS)
def test_form_names_only_ever_refuse(pairs):
    refusal = refusal_of(lambda: parse_body(RawBody(form=tuple(pairs))))
    assert refusal is None or refusal.status == 400


@OVER_HTTP
@given(BODIES | PROMPTED)
def test_json_bodies_never_fault(client, body):
    raw = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    accepted_or_explained(client.post("/v1/videos", content=raw, headers=headers))


@OVER_HTTP
@given(PAIRS)
def test_urlencoded_bodies_never_fault(client, pairs):
    named = {}
    for name, value in pairs:
        named.setdefault(name, []).append(value)
    accepted_or_explained(client.post("/v1/videos", data=named))


@OVER_HTTP
@given(st.binary(max_size=200), st.sampled_from(["--b\r\n", ""]))
def test_broken_multipart_bodies_never_fault(client, raw, start):
    content = start.encode() + raw
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    accepted_or_explained(client.post("/v1/videos", content=content, headers=headers))
