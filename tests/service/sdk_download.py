"""Downloads a video with whichever OpenAI SDK is on the path; run in a subprocess.

Writes it to a file; prints the SDK's version and whether it was redirected.
"""

import json
import sys
import warnings

import openai

warnings.simplefilter("ignore")


def main(video_id, path):
    """Download, wherever the content is."""
    content = openai.OpenAI().videos.download_content(video_id)
    content.write_to_file(path)
    report = {"version": openai.__version__, "redirected": bool(content.response.history)}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
