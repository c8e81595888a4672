"""From a parsed body to a `VideoRequest`: the whole intake, in order.

Whatever a model would refuse after minutes is refused here, before the queue. This module does
not fetch or decode media.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from starlette.datastructures import UploadFile

from service import fields
from service.cast import FindCharacter, nobody
from service.errors import ModelNotFound, show
from service.excess import check_excess, remarks
from service.finishing import finish
from service.forms import Tree
from service.keyframes import check_places
from service.limits import resolve
from service.media import Media, read_media
from service.roles import sort_images
from service.tasks import choose_task
from service.wishes import Wishes, read_wishes
from worker.jobs.catalog import ModelCard
from worker.jobs.contract import Tier, VideoRequest


@dataclass(frozen=True)
class Draft:
    """A body as it was understood, before anything that it names is looked for.

    A repeated call is recognised by the fingerprint and answered from its job: what it names may
    be gone by then.
    """

    fingerprint: str  # of the fields as asked, so that equal bodies agree on a random seed
    complete: Callable[[], "Order"]  # raises ApiError, JobNotFound


@dataclass(frozen=True)
class Order:
    """A checked create call: what to make."""

    request: VideoRequest  # without its inputs, and what they decide; or a stored one to repeat
    card: ModelCard
    wishes: Wishes
    media: Media  # the inputs as they were given; see `inputs.admit`
    queue_deadline_s: float | None
    callback_url: str | None = None  # as wished: whether it may be called is not looked at here
    tier: Tier = Tier.DEFAULT  # as wished: whether the caller may is not looked at here
    gpu_class: str = ""  # as wished: whether there is one is not looked at here


def read_draft(
    tree: Tree,
    cards: Mapping[str, ModelCard],
    default_model: str,
    path: str,
    lenient: bool = False,
    find_character: FindCharacter = nobody,
) -> Draft:
    """The whole intake of one body, in two parts.

    lenient  unknown fields become warnings
    raises   ApiError of status 400, naming the field, the value and the limit; so does the draft
             when it is completed, and NoSuchCharacter
    """
    wishes = sort_images(read_wishes(tree, lenient))
    card = find_card(wishes, cards, default_model)
    task_type = choose_task(wishes, card, cards)
    wishes = finish(wishes, card, task_type, cards)
    return Draft(
        fingerprint=fingerprint(path, wishes, model=card.id, task_type=task_type),
        complete=partial(complete, wishes, card.for_kind(task_type), task_type, find_character),
    )


def complete(
    wishes: Wishes, card: ModelCard, task_type: str, find_character: FindCharacter
) -> Order:
    """raises ApiError of status 400, naming the field, the value and the limit; NoSuchCharacter"""
    media = read_media(wishes, card, task_type, find_character)
    request = resolve(wishes, card, task_type, media.shots)
    check_excess(wishes, media, card, request)
    check_places(media.keyframes, request, bool(media.first_frame), bool(media.last_frame))
    return Order(
        request=request,
        card=card,
        wishes=replace(wishes, warnings=wishes.warnings + remarks(request)),
        media=media,
        queue_deadline_s=wishes.get(fields.EXPIRES_AFTER),
        callback_url=wishes.get(fields.CALLBACK_URL),
        tier=Tier(wishes.get(fields.SERVICE_TIER) or Tier.DEFAULT),
        gpu_class=wishes.get(fields.GPU_CLASS) or "",
    )


def find_card(wishes: Wishes, cards: Mapping[str, ModelCard], default_model: str) -> ModelCard:
    wanted = wishes.get(fields.MODEL) or default_model
    card = cards.get(wanted)
    if card is None:
        raise ModelNotFound(
            f"model: {show(wanted)} does not exist; this server has {', '.join(sorted(cards))}",
            "model",
        )
    return card


def fingerprint(path: str, wishes: Wishes, **more: str) -> str:
    """Digest of what was asked: equal for equal requests, whatever their encoding. Files count by
    their content, ids and URLs by themselves.

    more  what was inferred of the wishes
    """
    asked = {**wishes.values, "path": path, **more}
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"), default=digest_upload)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_upload(upload: object) -> dict[str, str]:
    """What stands for an uploaded file: the SHA-256 of its bytes, never its name."""
    assert isinstance(upload, UploadFile)
    upload.file.seek(0)
    sha256 = hashlib.sha256()
    while chunk := upload.file.read(1 << 20):
        sha256.update(chunk)
    return {"sha256": sha256.hexdigest()}
