"""Which requests can be made in one batch: those that ask the network the same number of times,
and about clips of one shape.

Pure: knows neither a loaded model nor the queue server.
"""

from worker.jobs.catalog import UNSHARED
from worker.jobs.contract import VideoRequest

ALONE = ""


def kind_of(request: VideoRequest) -> str:
    """What requests must have in common to be made side by side; `ALONE` if that never pays.

    Seeds and words differ as they like, so does the strength of guidance if there is any.
    """
    # An adapter and some qualities change the network for everybody, and gradients are taken alone.
    alone = request.adapter is not None or request.reconstruction_weight is not None
    if request.task_type != "text" or alone or request.quality in UNSHARED:
        return ALONE
    shape = f"{request.width}x{request.height}x{request.num_frames}@{request.fps}"
    course = f"{request.sampler}/{request.num_inference_steps}"
    guided = "unguided" if request.guidance_scale == 1 else request.guidance_schedule
    return f"{request.task_type} {shape} {course} {guided} {request.quality or ''}".strip()
