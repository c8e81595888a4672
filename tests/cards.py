"""Model cards that tests of the service start from."""

from dataclasses import replace

from models.catalog import InputLimits, ModelCard, read_catalog


def plain_card() -> ModelCard:
    """pocket's as it is without the stages after its base: one size, one rate, clips of the base.

    Most laws of the service are about no stage, and easier to read so.
    """
    card = read_catalog()["pocket"]
    base = card.for_kind("story")
    limits = replace(card.inputs, upscale_factors=InputLimits().upscale_factors)
    return replace(base, tasks=card.tasks - {"interpolate", "upscale"}, inputs=limits)


def plain_catalog() -> dict[str, ModelCard]:
    """A catalog of nothing but that."""
    card = plain_card()
    return {card.id: card}
