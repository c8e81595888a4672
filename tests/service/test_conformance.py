"""Whatever the OpenAPI document allows or forbids, the service answers as the document says.

A slice by default. `make fuzz` sets PRAXINO_FUZZ_EXAMPLES and finds its count in
`reports/fuzz.json`.
"""

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.conformance import NEEDED, PHASES, Campaign
from worker.jobs.catalog import read_catalog
from worker.jobs.contract import ErrorCode
from worker.jobs.outcomes import JobNotFound

EXAMPLES = int(os.environ.get("PRAXINO_FUZZ_EXAMPLES", "0"))  # 0: the slice
REPORT = Path(os.environ.get("PRAXINO_FUZZ_REPORT", "reports/fuzz.json"))
SEED = int(os.environ.get("PRAXINO_FUZZ_SEED", "1"))
OPEN = {
    "api_keys": ("fuzz:key",),
    "requests_per_minute": 0,
    "max_active_per_tenant": 100_000,
    "max_queued_per_tenant": 100_000,
    "max_queue_depth": 100_000,
    "max_files_per_tenant": 100_000,
    "max_characters_per_tenant": 100_000,
}


@contextlib.contextmanager
def ending(hand: Any) -> Iterator[None]:
    """End every job soon, three of four well: streams and waits are over then."""
    stop = threading.Event()

    def end(job_id: str) -> None:
        # The client may have been there first.
        with contextlib.suppress(AssertionError, JobNotFound):
            if int(job_id[-1], 16) % 4:
                hand.finish(job_id)
            else:
                hand.fail(job_id, ErrorCode.INTERNAL_ERROR, "The model gave up.")

    def work() -> None:
        while not stop.wait(0.2):
            if not hand.store.workers():
                hand.announce("idle")
            for job_id in hand.store.live_ids():
                end(job_id)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def make_things(api: Any, clip: Path) -> dict[str, list[str]]:
    """Something of every kind that a path can name."""
    with api.client("key") as client:
        video = client.post("/v1/videos", json={"prompt": "a fox"})
        upload = {"file": ("a.mp4", clip.read_bytes())}
        file = client.post("/v1/files", data={"purpose": "vision"}, files=upload)
        cast = {"data": {"name": "fox"}, "files": {"video": ("a.mp4", clip.read_bytes())}}
        character = client.post("/v1/videos/characters", **cast)
    names = {"video_id": video, "file_id": file, "character_id": character}
    return {name: [made.json()["id"]] for name, made in names.items()} | {"model_id": ["pocket"]}


@pytest.fixture
def campaign(serving: Any, able_card: Any, hand: Any, clip: Path) -> Iterator[Campaign]:
    api = serving(cards=read_catalog() | {"able": able_card}, **OPEN)
    with ending(hand):
        yield Campaign(api.url, "key", make_things(api, clip), SEED)


def test_answers_are_as_documented(campaign: Campaign) -> None:
    if not EXAMPLES:
        campaign.run(("fuzzing",), each=4)
        assert campaign.tally.examples > 80
    else:
        campaign.run(PHASES, each=50)
        while campaign.tally.examples < EXAMPLES:
            campaign.run(("fuzzing",), each=50)
        REPORT.write_text(json.dumps(campaign.tally.report(), indent=2) + "\n", encoding="utf-8")
        for name in NEEDED:  # an order that was never taken has hardly been tried
            assert 200 in campaign.tally.statuses[name], name
    assert campaign.tally.faults == []
    assert set(campaign.tally.statuses["createVideo"]) >= {200, 400}
