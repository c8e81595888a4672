"""Model cards that tests of the service start from."""

from dataclasses import replace

from models.catalog import InputLimits, ModelCard, read_catalog


def plain_card() -> ModelCard:
    """pocket's as it is without the stages after its base: one size, one rate, clips of the base.

    Most laws of the service are about no stage, and easier to read so.
    """
    card = read_catalog()["pocket"]
    rule = card.cascade
    assert rule is not None
    fps = tuple(rate for rate in card.fps if rate not in rule.fps)
    return replace(
        card,
        cascade=None,
        tasks=card.tasks - {"interpolate", "upscale"},
        sizes=tuple(size for size in card.sizes if size not in rule.sizes),
        fps=fps,
        default_frames=card.frames.nearest(card.default_frames * fps[0] / card.fps[0]),
        inputs=replace(card.inputs, upscale_factors=InputLimits().upscale_factors),
    )


def plain_catalog() -> dict[str, ModelCard]:
    """A catalog of nothing but that."""
    card = plain_card()
    return {card.id: card}
