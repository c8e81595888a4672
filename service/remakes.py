"""Jobs made of earlier ones, or of a clip by a path of its own: remix, extend, edit, upscale and
interpolate. All but the remix are create bodies of which the path says a part.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from service import fields
from service.errors import ApiError, InvalidValue, MissingParameter, UnknownParameter, show
from service.excess import remarks
from service.forms import Tree
from service.guiding import check_adapter
from service.intake import Draft, Order, find_card, fingerprint
from service.limits import resolve_prompt
from service.media import Media
from service.orders import Call, Ordering, read_body, take_order
from service.schema import create_body, refusals
from service.tasks import offered, unsupported
from service.values import Field
from service.videos import find, known_shape
from service.wire import PREFIX, Video
from service.wishes import Wishes, read_wishes
from worker.jobs.contract import Tier

router = APIRouter(tags=["videos"])

EXTENSIONS = PREFIX + "/extensions"
EDITS = PREFIX + "/edits"
REMIX = PREFIX + "/{video_id}/remix"
UPSCALE = PREFIX + "/{video_id}/upscale"
INTERPOLATE = PREFIX + "/{video_id}/interpolate"
REFUSALS = refusals(400, 401, 403, 404, 410, 413, 415, 422, 429, 503)

# What a remix takes besides its prompt: nothing of the film, only how the job is treated.
TREATMENT = (fields.CALLBACK_URL, fields.EXPIRES_AFTER, fields.SERVICE_TIER, fields.GPU_CLASS)
LENGTHS = (fields.SECONDS, fields.NUM_FRAMES)

Wanted = tuple[Field[Any], ...]  # fields of which one must be given


@router.post(
    EXTENSIONS,
    operation_id="extendVideo",
    summary="Extend a clip",
    response_model=Video,
    responses=REFUSALS,
    openapi_extra=create_body(without=(fields.TASK_TYPE,)),
)
def extend_video(call: Ordering) -> Response:
    """`seconds` more of the `video`; the answer's `seconds` are those of the whole."""
    needs: list[Wanted] = [(fields.PROMPT,), LENGTHS, (fields.VIDEO,)]
    return take_order(call, EXTENSIONS, partial(read_pinned, call, EXTENSIONS, "extend", needs))


@router.post(
    EDITS,
    operation_id="editVideo",
    summary="Edit a clip",
    response_model=Video,
    responses=REFUSALS,
    openapi_extra=create_body(without=(fields.TASK_TYPE,)),
)
def edit_video(call: Ordering) -> Response:
    """The `video` as the prompt, or an edited first or last frame, wants it."""
    needs: list[Wanted] = [(fields.PROMPT,), (fields.VIDEO,)]
    return take_order(call, EDITS, partial(read_pinned, call, EDITS, "edit", needs))


@router.post(
    UPSCALE,
    operation_id="upscaleVideo",
    summary="Upscale a video",
    response_model=Video,
    responses=REFUSALS,
    openapi_extra=create_body(without=(fields.TASK_TYPE, fields.VIDEO)),
)
def upscale_video(video_id: str, call: Ordering) -> Response:
    """An earlier video `upscale_factor` times as large."""
    return rework(call, UPSCALE, video_id, "upscale")


@router.post(
    INTERPOLATE,
    operation_id="interpolateVideo",
    summary="Interpolate a video",
    response_model=Video,
    responses=REFUSALS,
    openapi_extra=create_body(without=(fields.TASK_TYPE, fields.VIDEO)),
)
def interpolate_video(video_id: str, call: Ordering) -> Response:
    """An earlier video with more frames a second."""
    return rework(call, INTERPOLATE, video_id, "interpolate")


@router.post(
    REMIX,
    operation_id="remixVideo",
    summary="Make a video again with another prompt",
    response_model=Video,
    responses=REFUSALS,
    openapi_extra=create_body(only=(fields.PROMPT, *TREATMENT)),
)
def remix_video(video_id: str, call: Ordering) -> Response:
    """The same request, its seed and inputs included, with a new prompt."""
    path = REMIX.format(video_id=known_shape(video_id))
    with telling_first(call, video_id):
        return take_order(call, path, partial(read_remix, call, path, video_id))


def rework(call: Call, route: str, video_id: str, task_type: str) -> Response:
    """Order a job on the film of an earlier one."""
    path = route.format(video_id=known_shape(video_id))
    pinned = {fields.VIDEO.name: {"id": video_id}}
    read = partial(read_pinned, call, path, task_type, [], pinned=pinned)
    with telling_first(call, video_id):
        return take_order(call, path, read)


@contextmanager
def telling_first(call: Call, video_id: str) -> Iterator[None]:
    """That there is no such video is told before anything else that is wrong with an order on it.

    Not by looking for it first: a repeated order is answered though its video is gone.
    raises JobNotFound in place of an ApiError
    """
    try:
        yield
    except ApiError:
        find(video_id, call.caller.tenant, call.services)
        raise


def read_pinned(
    call: Call,
    path: str,
    task_type: str,
    needs: list[Wanted],
    tree: Tree,
    pinned: Mapping[str, Any] | None = None,
) -> Draft:
    """The order of a create body of which the path says the kind of job, and `pinned`.

    raises MissingParameter for what is needed besides what every job of the kind needs;
           InvalidValue for a field that contradicts the path
    """
    for wanted in needs:
        require(tree, wanted)
    said = {fields.TASK_TYPE.name: task_type} | dict(pinned or {})
    for name, value in said.items():
        if tree.get(name) not in (None, value):
            raise InvalidValue(
                f"{name}: this path makes it {show(value)}; got {show(tree[name])}", name
            )
    return read_body(tree | said, path, call)


def require(tree: Tree, wanted: Wanted) -> None:
    """raises MissingParameter if none of the fields is given under any of its names"""
    if all(tree.get(name) is None for field in wanted for name in field.names):
        name = wanted[0].name
        raise MissingParameter(f"{name}: is required", name)


def read_remix(call: Call, path: str, video_id: str, tree: Tree) -> Draft:
    """The wishes of a body that may have few. raises ApiError of status 400"""
    require(tree, (fields.PROMPT,))
    wishes = read_wishes(tree, call.services.settings.unknown_fields == "warn")
    for name in wishes.values:
        if name not in {field.name for field in (fields.PROMPT, *TREATMENT)}:
            raise UnknownParameter(f"{name}: a remix changes the prompt alone", name)
    return Draft(fingerprint(path, wishes), partial(remix, call, video_id, wishes))


def remix(call: Call, video_id: str, wishes: Wishes) -> Order:
    """The request of an earlier job with another prompt.

    raises JobNotFound; ApiError of status 400, for a model that is no longer here too
    """
    services = call.services
    source = find(video_id, call.caller.tenant, services)
    request = source.request
    model = Wishes({fields.MODEL.name: request.model})
    card = find_card(model, services.cards, services.settings.default_model)
    if request.task_type not in offered(card):
        raise unsupported(card, services.cards, frozenset({request.task_type}), "video_id")
    check_adapter(request.adapter, card)
    prompt = resolve_prompt(wishes, card, request.task_type)
    shots = tuple(
        shot.model_copy(update={"prompt": prompt}) if shot.prompt == request.prompt else shot
        for shot in request.shots
    )
    remade = request.model_copy(
        update={"prompt": prompt, "shots": shots, "remixed_from_video_id": source.id}
    )
    return Order(
        request=remade,
        card=card,
        wishes=replace(wishes, warnings=wishes.warnings + remarks(remade)),
        media=Media(),
        queue_deadline_s=wishes.get(fields.EXPIRES_AFTER),
        callback_url=wishes.get(fields.CALLBACK_URL),
        tier=Tier(wishes.get(fields.SERVICE_TIER) or Tier.DEFAULT),
        gpu_class=wishes.get(fields.GPU_CLASS) or "",
    )
