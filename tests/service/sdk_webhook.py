"""Unwraps a webhook with whichever OpenAI SDK is on the path; run in a subprocess.

Reads {body, headers, secret} as JSON; prints what the SDK made of it, and of a tampered one.
"""

import json
import sys
import warnings

import openai

warnings.simplefilter("ignore")


def main():
    """Unwrap, then tamper."""
    given = json.load(sys.stdin)
    client = openai.OpenAI(api_key="k", webhook_secret=given["secret"])
    event = client.webhooks.unwrap(given["body"], given["headers"])
    tampered = given["body"].replace("completed", "cancelled")
    try:
        client.webhooks.unwrap(tampered, given["headers"])
        refused = False
    except openai.InvalidWebhookSignatureError:
        refused = True
    found = {
        "version": openai.__version__,
        "id": event.id,
        "type": event.type,
        "video": event.data.id,
        "tampered_refused": refused and tampered != given["body"],
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
