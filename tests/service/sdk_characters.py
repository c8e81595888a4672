"""Makes a character and uses it with whichever OpenAI SDK is on the path; run in a subprocess.

Prints what it was answered as one JSON object.
"""

import json
import sys
import warnings

import openai

warnings.simplefilter("ignore")


def main(clip):
    """Make a character of a clip, look it up, and order a film with it."""
    client = openai.OpenAI()
    with open(clip, "rb") as file:
        made = client.videos.create_character(name="hero", video=file)
    got = client.videos.get_character(made.id)
    video = client.videos.create(prompt="@hero runs", extra_body={"characters": [{"id": made.id}]})
    shown = {"made": made, "got": got, "video": video}
    report = {name: one.model_dump(warnings=False) for name, one in shown.items()}
    sys.stdout.write(json.dumps(report | {"version": openai.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
