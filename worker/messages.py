"""The closed vocabulary between supervisor and inference child: one JSON object a line.

Neither side knows the other's libraries: the supervisor never loads torch, the child never loads
redis or rq. A message whose `exec` is not the current attempt token is dropped by its reader.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from worker.jobs.catalog import CostCurve
from worker.jobs.contract import Checkpoint, ErrorCode, JobResult, Stage, VideoRequest
from worker.jobs.costs import Sample

MAX_MESSAGE_BYTES = 1 << 20
MODELLESS = "The worker could not load the model."  # for the owner of a job


class Message(BaseModel):
    """Base of every message: frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Run(Message):
    """To the child: start this attempt."""

    type: Literal["run"] = "run"
    exec: str
    job_id: str
    attempt: int
    request: VideoRequest
    artifact_prefix: str  # every result's key starts with it; contains the attempt token
    checkpoint_prefix: str = ""  # every checkpoint's key starts with it; "": none are wanted
    resume: Checkpoint | None = None  # go on from it, if it can be read
    more: bool = False  # the next run is made in one batch with this one

    @property
    def tenant(self) -> str:
        """Whose job it is, as the names of its results say."""
        return self.artifact_prefix.partition("/")[0]


class Cancel(Message):
    """To the child: stop the attempt at its next step; the model stays loaded."""

    type: Literal["cancel"] = "cancel"
    exec: str


class Yield(Message):
    """To the child: write a checkpoint at the next step, then stop as after `Cancel`."""

    type: Literal["yield"] = "yield"
    exec: str


class Exit(Message):
    """To the child: leave when idle."""

    type: Literal["exit"] = "exit"


class Loading(Message):
    """From the child: it begins to load a model for the runs that it was given."""

    type: Literal["loading"] = "loading"
    model: str


class Ready(Message):
    """From the child: a model is loaded and can serve; the first time, so is the child."""

    type: Literal["ready"] = "ready"
    pid: int
    model: str
    weights_sha256: str
    load_s: float
    cost: CostCurve = CostCurve()  # the card's
    memory_mb: float | None = None  # a job's peak may reach this
    resumable: bool = False  # a film that one attempt began another goes on with
    batchable: bool = False  # several films at once cost less than one after the other
    rehearsal: Sample | None = None  # a clip of the default size; only before any job


class Unloaded(Message):
    """From the child: a model had to make room, or nobody has used it for a while."""

    type: Literal["unloaded"] = "unloaded"
    model: str


class StageStarted(Message):
    """From the child: the attempt entered a stage."""

    type: Literal["stage"] = "stage"
    exec: str
    stage: Stage


class StepDone(Message):
    """From the child: `index` of `total` steps of the current stage are done."""

    type: Literal["step"] = "step"
    exec: str
    index: int
    total: int
    shot: int = 0  # 0..shots - 1, the one that is being made
    shots: int = 1
    shot_done: float = 0.0  # 0..1 of that shot


class Alive(Message):
    """From the child: the attempt goes on, with nothing else to tell: it waits for the store, or
    bytes move."""

    type: Literal["alive"] = "alive"
    exec: str


class CheckpointSaved(Message):
    """From the child: a checkpoint is durable; it counts once the job's row names it."""

    type: Literal["checkpoint"] = "checkpoint"
    exec: str
    checkpoint: Checkpoint


class Done(Message):
    """From the child: results are durable under the artifact prefix."""

    type: Literal["done"] = "done"
    exec: str
    result: JobResult


class CancelledMessage(Message):
    """From the child: the attempt stopped as told; the model stays loaded."""

    type: Literal["cancelled"] = "cancelled"
    exec: str


class Failed(Message):
    """From the child: the attempt failed; `fatal` means the child itself is unusable, `finished`
    that a whole film waits on this machine and only could not be stored, `crowded` that it had
    no memory beside the other films of its batch, `full` that this machine's disk takes nothing,
    `modelless` that its model did not load."""

    type: Literal["error"] = "error"
    exec: str | None  # None: failed before any attempt, while loading
    code: ErrorCode
    message: str
    retryable: bool
    fatal: bool
    finished: bool = False
    crowded: bool = False
    full: bool = False
    modelless: bool = False


ToChild = Annotated[Run | Cancel | Yield | Exit, Field(discriminator="type")]
FromChild = Annotated[
    Loading
    | Ready
    | Unloaded
    | StageStarted
    | StepDone
    | Alive
    | CheckpointSaved
    | Done
    | CancelledMessage
    | Failed,
    Field(discriminator="type"),
]

TO_CHILD: TypeAdapter[ToChild] = TypeAdapter(ToChild)
FROM_CHILD: TypeAdapter[FromChild] = TypeAdapter(FromChild)
