"""From a parsed body to a `VideoRequest`: the whole intake, in order.

Whatever a model would refuse after minutes is refused here, before the queue. This module does
not fetch or decode media.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from service import fields
from service.errors import ModelNotFound, PermissionDenied, show
from service.forms import Tree
from service.limits import resolve
from service.tasks import choose_task
from service.wishes import Wishes, read_wishes
from worker.jobs.catalog import ModelCard
from worker.jobs.contract import VideoRequest


@dataclass(frozen=True)
class Order:
    """A checked create call: what to make, and how to recognise it when it comes again."""

    request: VideoRequest
    fingerprint: str  # of the fields as asked, so that equal bodies agree on a random seed
    queue_deadline_s: float | None


def read_order(tree: Tree, cards: Mapping[str, ModelCard], default_model: str, path: str) -> Order:
    """The whole intake of one body.

    raises ApiError of status 400 or 403, naming the field, the value and the limit
    """
    wishes = read_wishes(tree)
    card = find_card(wishes, cards, default_model)
    task_type = choose_task(wishes, card, cards)
    if wishes.get(fields.SERVICE_TIER) == "priority":
        raise PermissionDenied("service_tier: this key may not use priority", "service_tier")
    return Order(
        request=resolve(wishes, card, task_type),
        fingerprint=fingerprint(path, wishes, card, task_type),
        queue_deadline_s=wishes.get(fields.EXPIRES_AFTER),
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


def fingerprint(path: str, wishes: Wishes, card: ModelCard, task_type: str) -> str:
    """Digest of what was asked: equal for equal requests, whatever their encoding."""
    asked = {**wishes.values, "path": path, "model": card.id, "task_type": task_type}
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
