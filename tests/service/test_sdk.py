"""The unmodified OpenAI SDKs over a real socket."""

import json
import os
import subprocess
import sys
from pathlib import Path

DRIVE = Path(__file__).with_name("sdk_drive.py")


def drive(api, sdk, key, tmp_path):
    """Run the whole script against an API. returns its report"""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(sdk),
        "OPENAI_BASE_URL": f"{api.url}/v1",
        "OPENAI_API_KEY": key,
    }
    done = subprocess.run(
        [sys.executable, str(DRIVE), str(tmp_path / "clip.mp4")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_the_sdk_creates_polls_lists_downloads_and_deletes(serving, hand, sdk, tmp_path, clip):
    api = serving(api_keys=("studio:key-one",), poll_after_ms=50)
    with hand.working():
        report = drive(api, sdk, "key-one", tmp_path)
    assert report["version"] == sdk.name.removeprefix("openai-")
    assert (tmp_path / "clip.mp4").read_bytes() == clip.read_bytes()
    assert report["unexpected"] == []
    assert len(report["checked"]) >= 15


def test_an_sdk_retry_after_a_lost_answer_makes_one_job(serving, sdk, store, tmp_path):
    """A proxy swallows the first answer: the job exists, the SDK hears 500 and tries again."""
    import http.client
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    api = serving()
    tries = []

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            onward = http.client.HTTPConnection("127.0.0.1", api.port)
            onward.request("POST", self.path, body, dict(self.headers))
            answer = onward.getresponse()
            raw = answer.read()
            onward.close()
            tries.append(json.loads(raw)["id"])
            lost = len(tries) == 1
            self.send_response(500 if lost else answer.status)
            self.send_header("Content-Type", "application/json")
            payload = b"{}" if lost else raw
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_):
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    code = (
        "import openai\n"
        f"client = openai.OpenAI(base_url='http://127.0.0.1:{proxy.server_port}/v1', api_key='k')\n"
        "print(client.videos.create(model='pocket', prompt='a fox').id)\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(sdk)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
    assert done.returncode == 0, done.stderr[-2000:]
    assert tries == [done.stdout.strip()] * 2
    assert store.live_ids() == {tries[0]}
