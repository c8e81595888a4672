"""Streams a job's events with whichever OpenAI SDK is on the path; run in a subprocess.

Prints as JSON what the SDK's own stream yielded, after a resume half way.
"""

import json
import sys
import warnings

import openai

warnings.simplefilter("ignore")


def stream(client, video_id, after=None):
    """Every event, as the SDK reads them."""
    headers = {"Last-Event-ID": after} if after else {}
    return client.get(
        f"/videos/{video_id}/events",
        cast_to=object,
        stream=True,
        stream_cls=openai.Stream[object],
        options={"headers": headers},
    )


def main(video_id, after):
    """Follow to the end, then once more from a given event on."""
    client = openai.OpenAI()
    whole = list(stream(client, video_id))
    rest = list(stream(client, video_id, after))
    sys.stdout.write(json.dumps({"whole": whole, "rest": rest, "version": openai.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
