"""The models on offer: what each can do, within which limits, and whether a worker is up."""

from typing import Literal

from fastapi import APIRouter
from starlette.responses import Response

from service.deps import Tenant, Wired
from service.errors import NotFound, show
from service.outlook import UP
from service.schema import refusals
from service.tasks import offered
from service.wire import PREFIX, Shape, written
from worker.jobs.catalog import InputLimits, ModelCard, Quality, Span
from worker.jobs.contract import MAX_REFERENCES, MAX_SHOTS
from worker.jobs.outcomes import WorkerInfo

router = APIRouter(tags=["models"])


class Model(Shape):
    """OpenAI's Model object."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(Shape):
    """Every model of this server."""

    object: Literal["list"] = "list"
    data: list[Model]


class Range(Shape):
    """A closed range and what is taken if nothing is asked."""

    minimum: float
    maximum: float
    default: float


class FrameLimits(Shape):
    """Legal frame counts: `offset` + a multiple of `step`, within the two ends."""

    offset: int
    step: int
    minimum: int
    maximum: int
    default: int


class InputRanges(Shape):
    """What a model takes besides words. Lengths are in frames of the result or the source."""

    max_reference_images: int
    max_shots: int
    max_total_frames: int
    reference_roles: list[str]
    max_keyframes: int
    masks: bool
    last_frame_sketches: bool
    first_frame_strength: Range
    last_frame_strength: Range
    reference_strength: Range
    upscale_factors: list[int]
    target_fps: Range


class Adapter(Shape):
    """A personal subject that a model was taught besides."""

    id: str
    word: str
    kind: str


class TierFidelity(Shape):
    """One film of a quality beside the exact one of the same words and seed, as measured."""

    ssim: float
    psnr_db: float
    speedup: float
    device: str
    size: str
    frames: int
    steps: int


class Tier(Shape):
    """A quality of open weights: whether it is exact, and else how near it comes."""

    name: str
    exact: bool
    num_inference_steps: int | None
    fidelity: TierFidelity | None


class VideoModel(Model):
    """A model's declared abilities and limits, and how ready it is: `ready` if a worker takes its
    jobs now, `loaded` on how many of its `workers`; others load it when its job comes."""

    title: str
    description: str
    licence: str
    task_types: list[str]
    sizes: list[str]
    num_frames: FrameLimits
    fps: list[int]
    seconds: Range
    num_inference_steps: Range
    guidance_scale: Range
    guidance_defaults: dict[str, float]  # of kinds of job whose default is another
    samplers: list[str]
    qualities: list[str]
    tiers: list[Tier]
    adapters: list[Adapter]
    max_prompt_chars: int
    memory_mb: float | None  # declared: of weights and runtime, whatever the size
    inputs: InputRanges
    resumable: bool
    is_default: bool
    ready: bool
    workers: int
    loaded: int


class VideoModelList(Shape):
    """Every model of this server, in full."""

    object: Literal["list"] = "list"
    data: list[VideoModel]


@router.get(
    PREFIX + "/models",
    operation_id="listVideoModels",
    summary="List models with their limits",
    response_model=VideoModelList,
    responses=refusals(401, 503),
)
def list_video_models(tenant: Tenant, services: Wired) -> Response:
    """What validation will accept, from the very cards it reads."""
    workers = services.store.workers()
    default = services.settings.default_model
    models = [to_video_model(card, workers, default) for card in services.cards.values()]
    return written(VideoModelList(data=models))


@router.get(
    "/v1/models",
    operation_id="listModels",
    summary="List models",
    response_model=ModelList,
    responses=refusals(401),
)
async def list_models(tenant: Tenant, services: Wired) -> Response:
    """The models' names."""
    models = [to_model(card) for card in services.cards.values()]
    return written(ModelList(data=models))


@router.get(
    "/v1/models/{model_id}",
    operation_id="retrieveModel",
    summary="Retrieve a model",
    response_model=Model,
    responses=refusals(401, 404),
)
async def retrieve_model(model_id: str, tenant: Tenant, services: Wired) -> Response:
    """One model by its name."""
    card = services.cards.get(model_id)
    if card is None:
        raise NoSuchModel(f"The model {show(model_id)} does not exist", "model")
    return written(to_model(card))


class NoSuchModel(NotFound):
    """Asked for by path; in a create body an unknown model is a bad value instead."""

    code = "model_not_found"


def to_model(card: ModelCard) -> Model:
    return Model(id=card.id, created=card.created, owned_by=card.owned_by)


def to_video_model(card: ModelCard, workers: tuple[WorkerInfo, ...], default: str) -> VideoModel:
    serving = [(worker, each) for worker in workers if (each := worker.of(card.id))]
    rate = card.fps[0]
    frames = card.frames_at(rate)
    return VideoModel(
        **to_model(card).model_dump(),
        title=card.title,
        description=card.description,
        licence=card.licence,
        task_types=sorted(offered(card)),
        sizes=list(card.sizes),
        num_frames=FrameLimits(
            offset=frames.offset,
            step=frames.step,
            minimum=frames.minimum,
            maximum=frames.maximum,
            default=card.default_frames,
        ),
        fps=list(card.fps),
        seconds=Range(
            minimum=frames.minimum / rate,
            maximum=frames.maximum / rate,
            default=card.default_frames / rate,
        ),
        num_inference_steps=to_range(card.steps),
        guidance_scale=to_range(card.guidance),
        guidance_defaults={k: v for k, v in card.guidance_defaults if k in offered(card)},
        samplers=list(card.samplers),
        qualities=[quality.name for quality in card.qualities],
        tiers=[to_tier(tier) for tier in card.tiers],
        adapters=[Adapter(**vars(adapter)) for adapter in card.adapters],
        max_prompt_chars=card.max_prompt_chars,
        memory_mb=card.cost.memory_mb or None,
        inputs=to_inputs(card.for_kind("upscale").inputs),
        resumable=card.resumable,
        is_default=card.id == default,
        ready=any(is_up(worker) for worker, _ in serving),
        workers=len(serving),
        loaded=sum(each.loaded for _, each in serving),
    )


def to_tier(tier: Quality) -> Tier:
    told = tier.fidelity
    return Tier(
        name=tier.name,
        exact=tier.exact,
        num_inference_steps=tier.base_steps,
        fidelity=None if told is None else TierFidelity(**vars(told)),
    )


def to_inputs(limits: InputLimits) -> InputRanges:
    return InputRanges(
        max_reference_images=min(MAX_REFERENCES, limits.max_references),
        max_shots=min(MAX_SHOTS, limits.max_shots),
        max_total_frames=limits.max_total_frames,
        reference_roles=list(limits.reference_roles),
        max_keyframes=limits.max_keyframes,
        masks=limits.masks,
        last_frame_sketches=limits.last_frame_sketches,
        first_frame_strength=to_range(limits.first_frame_strength),
        last_frame_strength=to_range(limits.last_frame_strength),
        reference_strength=to_range(limits.reference_strength),
        upscale_factors=list(limits.upscale_factors),
        target_fps=to_range(limits.target_fps),
    )


def is_up(worker: WorkerInfo) -> bool:
    """Whether a worker takes jobs."""
    return worker.state in UP


def to_range(span: Span) -> Range:
    return Range(minimum=span.minimum, maximum=span.maximum, default=span.default)
