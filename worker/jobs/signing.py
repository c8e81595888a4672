"""Signatures by which a receiver knows that a webhook is ours: Standard Webhooks 1.0.

https://www.standardwebhooks.com: HMAC-SHA256 over id, timestamp and raw body.
"""

import base64
import binascii
import hmac
import os
from collections.abc import Sequence

PREFIX = "whsec_"
NEW_BYTES = 32
MIN_BYTES, MAX_BYTES = 24, 64  # what the specification allows


def new_secret() -> str:
    """A fresh secret, as receivers' libraries take it."""
    return PREFIX + base64.b64encode(os.urandom(NEW_BYTES)).decode()


def read_secret(secret: str) -> bytes:
    """The key within a secret. raises ValueError, which never quotes it"""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(PREFIX) or not MIN_BYTES <= len(key) <= MAX_BYTES:
        raise ValueError(
            f"a webhook secret must be {PREFIX} and base64 of {MIN_BYTES} to {MAX_BYTES} bytes"
        )
    return key


def signed_headers(
    message_id: str, timestamp: int, body: bytes, secrets: Sequence[str]
) -> dict[str, str]:
    """The three headers of a signed message.

    message_id  the same for every try of one message
    timestamp   Unix seconds of this try; receivers refuse it after five minutes
    secrets     each signs; more than one while a secret is rotated
    """
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    signatures = (hmac.digest(read_secret(secret), signed, "sha256") for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(
            "v1," + base64.b64encode(signature).decode() for signature in signatures
        ),
    }
