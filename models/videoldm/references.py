"""Which references a clip is made from, how its prompt reads, and how hard they pull."""

import re

from models.protocol import Reference, Task
from models.videoldm.segments import Segment

FULL_SCALE = 2.0  # of guidance by references of full strength

_NAMED = re.compile(r"@([\w-]+)")


def used_references(task: Task, segment: Segment) -> tuple[Reference, ...]:
    """Those that the prompt speaks of and that have any strength.

    `@name` in the prompt picks the reference of that name. Once any is picked, other named ones are
    left out; those without a name always count.
    """
    picked = _names(segment).intersection(_NAMED.findall(segment.prompt))
    return tuple(
        reference
        for reference in segment.references
        if task.reference_strength * reference.strength > 0
        and (not picked or not reference.name or reference.name in picked)
    )


def plain_prompt(segment: Segment) -> str:
    """The prompt as the network reads it: names of references without their mark."""
    known = _names(segment)
    return _NAMED.sub(lambda match: match[1 if match[1] in known else 0], segment.prompt)


def reference_scale(task: Task, references: tuple[Reference, ...]) -> float:
    """Scale of guidance by these references, one at least: their mean strength decides."""
    mean = sum(reference.strength for reference in references) / len(references)
    return FULL_SCALE * task.reference_strength * mean


def _names(segment: Segment) -> set[str]:
    return {reference.name for reference in segment.references if reference.name}
