"""Which kind of job a request is, and whether its model can do it."""

from collections.abc import Mapping

from service import fields
from service.errors import IncompatibleInputs, UnsupportedTask
from service.wishes import Wishes
from worker.jobs.catalog import ModelCard


def offered(card: ModelCard) -> frozenset[str]:
    """The kinds of job that can be ordered from a model here."""
    return card.tasks


def choose_task(wishes: Wishes, card: ModelCard, cards: Mapping[str, ModelCard]) -> str:
    """The kind of job, explicit or inferred, once the model is known to do it."""
    task_type, because = infer_task(wishes, card)
    if task_type not in offered(card):
        raise unsupported(card, cards, frozenset({task_type}), because)
    for name in wishes.values:
        if switched_off(wishes, name):
            continue
        takes = fields.BY_NAME[name].tasks
        if takes and not takes & offered(card):
            raise unsupported(card, cards, takes, name)
        if takes and task_type not in takes:
            raise IncompatibleInputs(
                f"{name}: belongs to {', '.join(sorted(takes))}; task_type is {task_type}", name
            )
    return task_type


def switched_off(wishes: Wishes, name: str) -> bool:
    return wishes.values[name] is False


def unsupported(
    card: ModelCard, cards: Mapping[str, ModelCard], tasks: frozenset[str], param: str
) -> UnsupportedTask:
    able = sorted(other.id for other in cards.values() if offered(other) & tasks)
    return UnsupportedTask(
        f"{param}: model {card.id!r} cannot do {' or '.join(sorted(tasks))}, "
        f"only {', '.join(sorted(offered(card)))}; "
        f"models that can: {', '.join(able) or 'none on this server'}",
        param,
    )


def infer_task(wishes: Wishes, card: ModelCard) -> tuple[str, str]:
    """The kind of job and the field that decided it; the first rule that matches wins."""
    explicit = wishes.get(fields.TASK_TYPE)
    if explicit is not None:
        return explicit, fields.TASK_TYPE.name
    if wishes.has(fields.SHOTS):
        return "story", fields.SHOTS.name
    if wishes.has(fields.VIDEO):
        return infer_video_task(wishes), fields.VIDEO.name
    if wishes.has(fields.LAST_FRAME):
        return "first_last_frame", fields.LAST_FRAME.name
    for field in (fields.REFERENCE_IMAGES, fields.CHARACTERS):
        if wishes.has(field):
            return "reference", field.name
    return infer_image_task(wishes, card)


def infer_video_task(wishes: Wishes) -> str:
    if wishes.has(fields.UPSCALE_FACTOR):
        return "upscale"
    if wishes.has(fields.MASK):
        return "edit"
    rates = (fields.TARGET_FPS, fields.INTERPOLATION_FACTOR, fields.INTERPOLATION_EXP)
    return "interpolate" if any(wishes.has(field) for field in rates) else "extend"


def infer_image_task(wishes: Wishes, card: ModelCard) -> tuple[str, str]:
    given = wishes.get(fields.INPUT_REFERENCE)
    if isinstance(given, list) and len(given) >= 2:
        return "reference", fields.INPUT_REFERENCE.name
    for field in (fields.FIRST_FRAME, fields.INPUT_REFERENCE):
        if wishes.has(field):
            takes_frame = "image" in card.tasks or "reference" not in card.tasks
            return "image" if takes_frame else "reference", field.name
    return "text", fields.TASK_TYPE.name
