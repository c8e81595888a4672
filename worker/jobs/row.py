"""Job rows: between the hash on the queue server and the contract's `Job`."""

import json
from collections.abc import Mapping

from worker.jobs.contract import (
    Checkpoint,
    Job,
    JobError,
    JobResult,
    Progress,
    Stage,
    Status,
    Tier,
    VideoRequest,
)
from worker.jobs.likeness import kind_of
from worker.jobs.outcomes import Made, Submission
from worker.jobs.settings import JobSettings

Row = Mapping[str, str]

# Where each stage stands within the whole, in percent: from its start to its end. Denoising
# takes most of the time at every size; the rest keeps the bar moving.
SPANS: dict[Stage, tuple[int, int]] = {
    Stage.QUEUED: (0, 0),
    Stage.LOADING: (0, 1),
    Stage.ENCODING: (1, 4),
    Stage.DENOISING: (4, 88),
    Stage.INTERPOLATING: (88, 90),
    Stage.DECODING: (90, 95),
    Stage.UPSCALING: (90, 95),
    Stage.POST_PROCESSING: (95, 98),
    Stage.UPLOADING: (98, 99),
    Stage.DONE: (99, 99),
}

# What an event carries of the row; the rest never changes or is read from the row itself.
MOMENT = (
    "state stage step total progress eta attempt retries_left cancel worker "
    "started_at completed_at expires_at reported_at result error shot shot_done"
).split()


def percent(progress: Progress) -> int:
    """Overall progress, 0..99, of a report from a running attempt."""
    low, high = SPANS[progress.stage]
    share = min(max(progress.step / progress.total, 0.0), 1.0) if progress.total > 0 else 0.0
    return int(low + (high - low) * share)


def new_row(submission: Submission, queue: str, settings: JobSettings) -> dict[str, str | int]:
    """The fields of a fresh row; admission adds the times.

    queue  the model's queue list on the server
    """
    request = submission.request
    return {
        "tenant": submission.tenant,
        "task_type": request.task_type,
        "model": request.model,
        "params": request.model_dump_json(),
        "fp": submission.fingerprint,
        "queue": queue,
        "callback": submission.callback_url or "",
        "traceparent": submission.traceparent,
        "tier": submission.tier,
        "gpu_class": submission.gpu_class,
        "state": Status.QUEUED,
        "stage": Stage.QUEUED,
        "step": 0,
        "total": 0,
        "progress": 0,
        "seq": 0,
        "attempt": 0,
        "retries_left": settings.max_attempts - 1,
        "attempts_log": "[]",
        "result_ttl": settings.result_ttl_s,
        "job_timeout": repr(submission.job_timeout_s or settings.job_timeout_s),
        "queue_deadline_s": repr(submission.queue_deadline_s or settings.queue_deadline_s),
        "cost": "" if submission.cost_s is None else repr(submission.cost_s),
        "warnings": json.dumps(submission.warnings),
        "share": submission.share,
        "kind": kind_of(request),
        **_made(submission.made),
    }


def _made(made: Made | None) -> dict[str, str]:
    if made is None:
        return {"made_by": ""}
    return {
        "made_by": made.by,
        "ended_by": made.token,
        "result": made.result.model_dump_json(),
    }


def decode(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    """A hash as the client returns it, as text."""
    return {name.decode(): value.decode() for name, value in fields.items()}


def is_visible(row: Row, tenant: str | None) -> bool:
    """Whether the row exists, is not deleted and belongs to the tenant (None: to anyone)."""
    return bool(row.get("params")) and not is_deleted(row) and tenant in (None, row["tenant"])


def has_fields(row: Row, asked: Row) -> bool:
    """Whether these fields have these values."""
    return all(row.get(name) == value for name, value in asked.items())


def has_metadata(row: Row, asked: Row) -> bool:
    """Whether the request carries these pairs."""
    if not asked:
        return True
    known = json.loads(row["params"]).get("metadata", {})
    return all(known.get(name) == value for name, value in asked.items())


def is_deleted(row: Row) -> bool:
    """Whether the owner deleted the job."""
    return row.get("deleted") == "1"


def to_job(job_id: str, row: Row, queue_position: int | None = None) -> Job:
    """The contract's view of a row.

    queue_position  0-based index in the queue list; None if the id is in no list
    """
    status = Status(row["state"])
    waiting = status is Status.QUEUED
    return Job(
        id=job_id,
        tenant=row["tenant"],
        request=VideoRequest.model_validate_json(row["params"]),
        status=status,
        stage=Stage(row["stage"]),
        step=int(row["step"]),
        total=int(row["total"]),
        progress=int(row["progress"]),
        eta_s=_number(row.get("eta")),
        # In no list means that a worker has just taken it or is giving it back: it is next.
        queue_position=(queue_position or 0) + 1 if waiting else None,
        attempt=int(row["attempt"]),
        retries_left=int(row["retries_left"]),
        cancel_requested=row.get("cancel") == "1",
        worker=row.get("worker") or None,
        created_at=float(row["created_at"]),
        started_at=_number(row.get("started_at")),
        completed_at=_number(row.get("completed_at")),
        expires_at=_number(row.get("expires_at")),
        attempts=json.loads(row["attempts_log"]),
        result=_result(row.get("result")),
        error=_error(row.get("error")),
        reported_at=_number(row.get("reported_at")),
        cost_s=_number(row.get("cost")),
        warnings=json.loads(row.get("warnings", "[]")),
        shot=int(row.get("shot", 0)),
        shot_done=float(row.get("shot_done", 0)),
        tier=Tier(row.get("tier", Tier.DEFAULT)),
        gpu_class=row.get("gpu_class", ""),
        cached=bool(row.get("leader") or row.get("made_by")),
        traceparent=row.get("traceparent", ""),
    )


def at_moment(row: Row, moment: Row) -> dict[str, str]:
    """The row as it stood when an event was written."""
    return {
        **{name: value for name, value in row.items() if name not in MOMENT},
        **{name: value for name, value in moment.items() if name in MOMENT},
    }


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def _result(text: str | None) -> JobResult | None:
    return JobResult.model_validate_json(text) if text else None


def checkpoint(row: Row) -> Checkpoint | None:
    """Where the next attempt goes on; None also for what no version of ours wrote."""
    try:
        return Checkpoint.model_validate_json(row["ckpt"]) if row.get("ckpt") else None
    except ValueError:
        return None


def _error(text: str | None) -> JobError | None:
    return JobError.model_validate_json(text) if text else None
