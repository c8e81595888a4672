"""How fast the bare model is: no HTTP, no queue, no MP4. Run as `python -m worker.pace`.

Reads one VideoRequest a line from standard input and answers each with one JSON line:
`{"seconds": …, "step_seconds": …}`. The benchmark of the service subtracts these from what a
client waits. Configured like a worker; the queue server is never contacted.
"""

import itertools
import json
import os
import statistics
import sys
import time
from typing import TextIO

from pydantic import SecretStr

from models.protocol import Step, VideoModel
from worker.child import load_model, open_results
from worker.inputs import read_task
from worker.jobs.artifacts import ArtifactStore
from worker.jobs.contract import VideoRequest
from worker.launcher import ChildConfig
from worker.settings import WorkerSettings


def main(orders: TextIO, answers: TextIO) -> None:
    """Answer requests until the input ends; the first line tells that the model is loaded."""
    config = read_config()
    model, store = load_model(config, config.model), open_results(config.data_dir)
    answers.write(json.dumps({"model": model.card.id}) + "\n")
    answers.flush()
    for line in orders:
        request = VideoRequest.model_validate_json(line)
        answers.write(json.dumps(time_request(model, request, store)))
        answers.write("\n")
        answers.flush()


def time_request(
    model: VideoModel, request: VideoRequest, store: ArtifactStore
) -> dict[str, float]:
    """Wall seconds of one generation, and the median time between two denoising steps in it."""
    ends: list[float] = []

    def note(step: Step) -> None:
        if step.stage == "denoising":
            ends.append(time.perf_counter())

    task = read_task(request, store)
    began = time.perf_counter()
    model.generate(task, note)
    seconds = time.perf_counter() - began
    gaps = [after - before for before, after in itertools.pairwise(ends)]
    return {"seconds": seconds, "step_seconds": statistics.median(gaps) if gaps else seconds}


def read_config() -> ChildConfig:
    """The same model, weights and device that a worker of this environment would load."""
    settings = WorkerSettings(redis_url=SecretStr("unix:///not-contacted"))
    return ChildConfig(
        parent_pid=os.getppid(),
        loader=settings.model_loader,
        model=settings.served[0],
        weights_dir=settings.weights_dir,
        device=settings.device,
        dtype=settings.dtype,
        data_dir=settings.data_dir,
        scratch_dir=settings.data_dir,
        shelf_dir=settings.shelf_dir,
        encoder=settings.encoder,
        storage_patience_s=settings.storage_patience_s,
        fast_attention=settings.fast_attention,
        fast_compile=settings.fast_compile,
    )


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
