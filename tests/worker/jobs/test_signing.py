"""Signatures as the specification's own library makes and checks them."""

import base64
import os
import time
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from worker.jobs.signing import new_secret, read_secret, signed_headers

BODY = b'{"type":"video.completed"}'


def headers(*secrets, at=None):
    return signed_headers("evt_1", int(at or time.time()), BODY, secrets)


def test_a_signature_is_the_one_that_the_specifications_library_makes():
    secret, at = new_secret(), int(time.time())
    theirs = Webhook(secret).sign("evt_1", datetime.fromtimestamp(at, UTC), BODY.decode())
    assert headers(secret, at=at)["webhook-signature"] == theirs


def test_either_secret_verifies_while_one_is_rotated():
    old, new = new_secret(), new_secret()
    signed = headers(new, old)
    for secret in (old, new):
        Webhook(secret).verify(BODY, signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(BODY, signed)


@pytest.mark.parametrize("change", ["body", "webhook-id", "webhook-timestamp"])
def test_whatever_is_tampered_with_is_refused(change):
    secret = new_secret()
    signed = headers(secret)
    body = BODY.replace(b"completed", b"failed") if change == "body" else BODY
    if change == "webhook-id":
        signed[change] = "evt_2"
    if change == "webhook-timestamp":
        signed[change] = str(int(signed[change]) + 1)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, signed)


def test_an_old_message_is_refused():
    secret = new_secret()
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY, headers(secret, at=time.time() - 400))


@pytest.mark.parametrize("size", [24, 32, 64])
def test_secrets_of_legal_length_are_read(size):
    key = os.urandom(size)
    assert read_secret("whsec_" + base64.b64encode(key).decode()) == key


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "secret", "whsec_not base64!", "whsec_" + "QQ==" * 2]
    + ["whsec_" + base64.b64encode(bytes(range(size))).decode() for size in (23, 65)]
    + [base64.b64encode(bytes(range(32))).decode()],
)
def test_a_secret_that_is_none_is_refused_and_never_quoted(secret):
    with pytest.raises(ValueError, match="must be whsec_ and base64 of 24 to 64 bytes") as caught:
        read_secret(secret)
    assert len(secret) < 12 or secret not in str(caught.value)
