"""Orders one video with whichever OpenAI SDK is on the path; run in a subprocess.

Prints its id as one JSON object.
"""

import json
import sys
import warnings

import openai

warnings.simplefilter("ignore")


def main():
    """One order, tried again as the SDK likes."""
    video = openai.OpenAI().videos.create(prompt="a fox", model="pocket")
    sys.stdout.write(json.dumps({"id": video.id, "version": openai.__version__}))


if __name__ == "__main__":
    main()
