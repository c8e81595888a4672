"""Meets what an API refuses with whichever OpenAI SDK is on the path; run in a subprocess.

Prints the exception of every call as one JSON object.
"""

import json
import sys
import warnings

import openai

warnings.simplefilter("ignore")


def refusal(call):
    """What an SDK makes of a refused call."""
    try:
        got = call()
    except openai.APIStatusError as error:
        return {
            "kind": type(error).__name__,
            "status": error.status_code,
            "code": error.code,
            "param": error.param,
            "type": error.type,
            "message": error.message,
            "has_id": bool(error.request_id),
        }
    return {"kind": None, "message": repr(got)}


def main(expired):
    """One call for each status."""
    videos = openai.OpenAI(max_retries=0).videos
    xml = {"Content-Type": "text/xml"}
    report = {
        "410": refusal(lambda: videos.download_content(expired)),
        "413": refusal(lambda: videos.create(prompt="x" * 200_000)),
        "415": refusal(lambda: videos.create(prompt="a fox", extra_headers=xml)),
        "503": refusal(lambda: [videos.create(prompt=f"a fox {i}") for i in range(2)]),
    }
    sys.stdout.write(json.dumps(report | {"version": openai.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
