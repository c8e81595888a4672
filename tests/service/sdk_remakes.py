"""Makes jobs of earlier ones with whichever OpenAI SDK is on the path; run in a subprocess.

Prints the videos that it was answered as one JSON object.
"""

import json
import sys
import warnings

import openai

warnings.simplefilter("ignore")

PROMPT = "a red fox walks to the left"


def lengthen_and_edit(videos, video_id, clip):
    """By a file and by an id, with those SDKs that have the calls."""
    by_id = {"video": openai.omit, "extra_body": {"video": {"id": video_id}}}
    made = {}
    with open(clip, "rb") as file:
        made["extend by file"] = videos.extend(prompt=PROMPT, seconds="1", video=file)
    with open(clip, "rb") as file:
        made["edit by file"] = videos.edit(prompt=PROMPT, video=file)
    made["extend by id"] = videos.extend(prompt=PROMPT, seconds="1", **by_id)
    made["edit by id"] = videos.edit(prompt=PROMPT, **by_id)
    return made


def main(video_id, clip):
    """Every call of the SDK that has a path of its own."""
    client = openai.OpenAI()
    videos = client.videos
    made = {"remix": videos.remix(video_id, prompt="a blue fox")}
    if hasattr(videos, "extend"):
        made |= lengthen_and_edit(videos, video_id, clip)
    report = {name: video.model_dump(warnings=False) for name, video in made.items()}
    report["upscale"] = client.post(
        f"/videos/{video_id}/upscale", body={"upscale_factor": 2}, cast_to=object
    )
    try:
        videos.remix("video_" + "0" * 32, prompt=PROMPT)
    except openai.OpenAIError as error:
        report["gone"] = [type(error).__name__, error.code]
    sys.stdout.write(json.dumps(report | {"version": openai.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
