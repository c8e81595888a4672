"""How one worker is deployed: which models it serves, where, and how patient it is.

Limits of a model are in its card, architecture in its config; neither is here.
"""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import structlog
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import NoDecode

from worker.jobs.settings import DAY_S, JobSettings

log = structlog.get_logger()

EXIT_BAD_SETTINGS = 2

Seconds = Annotated[float, Field(gt=0)]


class WorkerSettings(JobSettings):
    """Settings of `python -m worker`, read from `PRAXINO_…` when instantiated."""

    model: str = "pocket"  # id of the model this worker serves
    # In its place several, as wan,ltx: it loads the first one, and others when their jobs come
    models: Annotated[tuple[str, ...], NoDecode] = ()
    loaded_models: Annotated[int, Field(ge=1)] = 1  # of them, kept at once; the longest unused goes
    loaded_mb: Annotated[int, Field(ge=0)] = 0  # MiB that they may hold together; 0: any
    idle_unload_s: Annotated[float, Field(ge=0)] = 0.0  # one unused for so long goes; 0: never
    # Jobs of the loaded model go first for so long while others of their tier wait
    model_turn_s: Annotated[float, Field(ge=0)] = 60.0
    # One of gpu_classes: jobs that are meant for it come here, besides those for any worker
    gpu_class: str = ""
    weights_dir: Path | None = None  # folder of the one model's weights; None: its own folder
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1", …
    # "auto", "float32", "bfloat16", "float16"; of open weights "float8", "int8" as well
    dtype: str = "auto"
    # GPUs of this machine that make each film together, all alike; open weights of some families
    ranks: Annotated[int, Field(ge=1, le=64)] = 1
    ranks_by: Literal["ulysses", "ring"] = "ulysses"  # how they share attention
    torch_threads: Annotated[int, Field(ge=0)] = 0  # 0 leaves the choice to torch
    # Of open weights in quality fast: the attention kernel, as diffusers names it, and whether
    # blocks are compiled; "auto" is the best kernel that is here, and compiles on CUDA only
    fast_attention: str = "auto"
    fast_compile: Literal["auto", "on", "off"] = "auto"
    # "module:function", called as function(model, weights_dir, device, dtype) -> VideoModel, with
    # `attention` and `compiled` where those two are set
    model_loader: str = "models.registry:load_model"
    encoder: str = "auto"  # "auto" tries NVENC first; or "libx264", "h264_nvenc"

    rehearse: bool = True  # time a short clip before the first job, so that estimates hold
    load_timeout_s: Seconds = 600.0  # loading a model and rehearsing; no job's time runs meanwhile
    cancel_grace_s: Seconds = 10.0  # from a soft stop to SIGKILL
    # A child that says nothing for so long hangs: another one goes on with the job. More than its
    # slowest step takes, and decoding, and one answer of the store, for whose outages it waits
    # aloud; 0: only the job's time limit counts
    silence_s: Annotated[float, Field(ge=0)] = 600.0
    # After SIGTERM a running job may use this to end; one that takes longer is handed back at once
    drain_s: Annotated[float, Field(ge=0)] = 25.0
    # Share of a job's time that writing checkpoints may take; 0: only when the worker leaves
    checkpoint_overhead: Annotated[float, Field(ge=0, le=1)] = 0.01
    # Waiting jobs of one kind that are made at once, as memory allows; 1: one after the other
    batch: Annotated[int, Field(ge=1, le=64)] = 1
    redis_patience_s: Seconds = 600.0  # how long a finished result waits for the queue server
    storage_patience_s: Seconds = 600.0  # how long for the store, before other jobs have a turn
    worker_ttl_s: Annotated[int, Field(ge=16)] = 30  # a silent worker is forgotten after it
    crash_limit: Annotated[int, Field(ge=1)] = 6  # child crashes in a row before giving up
    # Main memory that the idle child may gain over what it held after its first job; beyond that
    # another one takes its place between two jobs. 0: any
    child_growth_mb: Annotated[int, Field(ge=0)] = 4096
    max_child_memory_mb: Annotated[int, Field(ge=0)] = 0  # address space; 0 is no limit
    max_file_mb: Annotated[int, Field(ge=0)] = 0  # largest file the child may write; 0: no limit

    @field_validator("models", mode="before")
    @classmethod
    def _split_names(cls, names: object) -> object:
        return names.replace(",", " ").split() if isinstance(names, str) else names

    @property
    def served(self) -> tuple[str, ...]:
        """The ids of the models that this worker serves, the one it loads first first."""
        return tuple(dict.fromkeys(self.models)) or (self.model,)

    @model_validator(mode="after")
    def _folder_of_one(self) -> "WorkerSettings":
        if self.weights_dir is not None and len(self.served) > 1:
            raise ValueError("weights_dir is the folder of one model, and there are several")
        return self

    @model_validator(mode="after")
    def _known_class(self) -> "WorkerSettings":
        if self.gpu_class and self.gpu_class not in self.gpu_classes:
            known = ", ".join(self.gpu_classes) or "none"
            raise ValueError(f"gpu_class {self.gpu_class!r} is none of gpu_classes: {known}")
        return self

    @model_validator(mode="after")
    def _ranks_keep_one_model(self) -> "WorkerSettings":
        if self.ranks > 1 and (len(self.served) > 1 or self.idle_unload_s):
            raise ValueError("ranks keep the one model that they began with")
        return self

    @model_validator(mode="after")
    def _ranks_choose_devices(self) -> "WorkerSettings":
        if self.ranks > 1 and ":" in self.device:
            raise ValueError(
                f"{self.ranks} ranks take the first GPUs; device {self.device!r} is one"
            )
        return self


class JanitorSettings(JobSettings):
    """Settings of `python -m worker.janitor`, read from `PRAXINO_…` when instantiated."""

    janitor_tick_s: Seconds = 2.0  # looking for leases that ran out
    rescue_after_s: Seconds = 15.0  # a waiting job in no list for this long is put back
    janitor_lock_s: Seconds = 10.0  # a dead janitor's successor waits this long
    sweep_every_s: Seconds = 60.0  # files and indexes of what has expired


class WebhookSettings(JobSettings):
    """Settings of `python -m worker.webhooks`, read from `PRAXINO_…` when instantiated."""

    # Seconds before each further try; after the last one a letter is dead.
    webhook_retries_s: str = "5,300,1800,7200,18000,36000"
    webhook_timeout_s: Seconds = 15.0  # one try, from resolving the name to the answer's status
    webhook_lease_s: Seconds = 30.0  # what a dead sender held is sent again after it
    webhook_senders: Annotated[int, Field(ge=1)] = 8  # tries at once
    webhook_per_host: Annotated[int, Field(ge=1)] = 2  # of them to one host
    webhook_tick_s: Seconds = 0.5  # looking for letters that are due

    @field_validator("webhook_retries_s")
    @classmethod
    def _readable_retries(cls, text: str) -> str:
        if any(not 0 < delay_s <= DAY_S for delay_s in read_delays(text)):
            raise ValueError(f"must be seconds between 0 and {DAY_S}, separated by commas")
        return text

    @model_validator(mode="after")
    def _lease_outlives_a_try(self) -> "WebhookSettings":
        if self.webhook_lease_s <= self.webhook_timeout_s:
            raise ValueError(
                f"webhook_lease_s must be more than webhook_timeout_s, {self.webhook_timeout_s:g}; "
                f"got {self.webhook_lease_s:g}"
            )
        return self

    @property
    def webhook_delays_s(self) -> tuple[float, ...]:
        """Seconds before the second try, the third, and so on."""
        return read_delays(self.webhook_retries_s)


def read_delays(text: str) -> tuple[float, ...]:
    """Numbers separated by commas. raises ValueError"""
    return tuple(float(word) for word in text.replace(",", " ").split())


Settings = TypeVar("Settings", bound=JobSettings)


def read_settings(kind: type[Settings]) -> Settings | None:
    """Read the environment, or say in the log which setting is wrong and return None."""
    try:
        return kind()
    except ValidationError as error:
        # Names and limits, not values: one of them is a password.
        for item in error.errors(include_input=False, include_url=False):
            name = ".".join(str(part) for part in item["loc"])
            log.error("settings.refused", setting=f"PRAXINO_{name.upper()}", reason=item["msg"])
        return None
