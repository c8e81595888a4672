"""Post-processing fields of a generation, as the size and rate of the film that comes out.

A model whose stages upscale and interpolate runs them right after its base: asking for that is
asking for a larger, denser film. What no stage of the model can do is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from service import fields
from service.errors import IncompatibleInputs, UnsupportedTask
from service.guiding import PER_FILM
from service.limits import has_size, resolve_size
from service.values import Field, refuse
from service.wishes import Wishes
from worker.jobs.catalog import CascadeRule, ModelCard

SIZES = (fields.SIZE, fields.WIDTH, fields.HEIGHT, fields.RESOLUTION, fields.ASPECT_RATIO)
UPSCALING = (fields.UPSCALE_FACTOR, fields.ENABLE_UPSCALING)
FACTORS = (fields.INTERPOLATION_FACTOR, fields.INTERPOLATION_EXP)
INTERPOLATION = (fields.TARGET_FPS, *FACTORS, fields.ENABLE_INTERPOLATION)


def finish(
    wishes: Wishes, card: ModelCard, task_type: str, cards: Mapping[str, ModelCard]
) -> Wishes:
    """The wishes with what shall happen after a generation turned into its size and rate.

    raises UnsupportedTask naming the models that can; InvalidValue, IncompatibleInputs
    """
    if task_type not in PER_FILM:
        return wishes
    return interpolated(upscaled(wishes, card, cards), card, cards)


def upscaled(wishes: Wishes, card: ModelCard, cards: Mapping[str, ModelCard]) -> Wishes:
    """`size` is that before upscaling, the size of key frames."""
    asked, wishes = take(wishes, UPSCALING, fields.ENABLE_UPSCALING)
    if asked is None:
        return wishes
    rule = card.cascade
    if rule is None or not rule.sizes:
        raise cannot(asked, card, cards, "upscale", lambda other: other.sizes)
    base = fields.SIZE.type.read(rule.base_size, "size")
    sides = [fields.SIZE.type.read(size, "size") for size in rule.sizes]
    factors = {width // base[0]: (width, height) for width, height in sides}
    factor = asked.values.get(fields.UPSCALE_FACTOR.name, next(iter(factors)))
    if factor not in factors:
        one_of = ", ".join(map(str, factors))
        raise refuse(fields.UPSCALE_FACTOR.name, f"one of {one_of} for {card.id}", factor)
    if has_size(wishes):  # none but the one that can be upscaled
        resolve_size(wishes, replace(card, sizes=(rule.base_size,)))
    return without(wishes, SIZES, {fields.SIZE.name: factors[factor]})


def interpolated(wishes: Wishes, card: ModelCard, cards: Mapping[str, ModelCard]) -> Wishes:
    """`fps` is that before interpolation, the rate of key frames."""
    asked, wishes = take(wishes, INTERPOLATION, fields.ENABLE_INTERPOLATION)
    if asked is None:
        return wishes
    rule = card.cascade
    if rule is None or not rule.fps:
        raise cannot(asked, card, cards, "interpolate", lambda other: other.fps)
    before = wishes.get(fields.FPS)
    if before is not None and before != rule.key_fps:
        raise refuse("fps", f"{rule.key_fps}, the rate before interpolation", before)
    rates = dict(wished_rates(asked, rule))
    for name, rate in rates.items():
        if rate not in rule.fps:
            one_of = ", ".join(map(str, rule.fps))
            raise refuse(name, f"a rate of {one_of} in the end, from {rule.key_fps}", rate)
    if len(set(rates.values())) > 1:
        first, *_, last = rates
        raise IncompatibleInputs(
            f"{last}: makes {rates[last]} frames a second, and {first} {rates[first]}", last
        )
    rate = next(iter(rates.values()), rule.fps[0])
    return without(wishes, (), {fields.FPS.name: rate})


def wished_rates(asked: Wishes, rule: CascadeRule) -> list[tuple[str, int]]:
    """The rates that fields ask for, by name."""
    target, factor, power = (
        asked.get(fields.TARGET_FPS),
        asked.get(fields.INTERPOLATION_FACTOR),
        asked.get(fields.INTERPOLATION_EXP),
    )
    found = [] if target is None else [(fields.TARGET_FPS.name, target)]
    if factor is not None:
        found.append((fields.INTERPOLATION_FACTOR.name, rule.key_fps * factor))
    if power is not None:
        found.append((fields.INTERPOLATION_EXP.name, rule.key_fps * 2**power))
    return found


def take(
    wishes: Wishes, some: tuple[Field[Any], ...], switch: Field[bool]
) -> tuple[Wishes | None, Wishes]:
    """Some fields, None if they are absent or switched off, and the wishes without them."""
    names = {field.name for field in some}
    asked = {name: value for name, value in wishes.values.items() if name in names}
    rest = without(wishes, some, {})
    on = asked and asked.get(switch.name) is not False
    return (Wishes(asked) if on else None), rest


def without(wishes: Wishes, some: tuple[Field[Any], ...], more: Mapping[str, Any]) -> Wishes:
    """The wishes without some fields, and with others instead."""
    names = {field.name for field in some}
    kept = {name: value for name, value in wishes.values.items() if name not in names}
    return replace(wishes, values=kept | dict(more))


def cannot(
    asked: Wishes,
    card: ModelCard,
    cards: Mapping[str, ModelCard],
    what: str,
    made: Callable[[CascadeRule], tuple[object, ...]],
) -> UnsupportedTask:
    """made  what of a model's stages shows that it can"""
    name = next(iter(asked.values))
    able = sorted(other.id for other in cards.values() if other.cascade and made(other.cascade))
    return UnsupportedTask(
        f"{name}: model {card.id!r} cannot {what} what it makes; "
        f"models that can: {', '.join(able) or 'none on this server'}",
        name,
    )
