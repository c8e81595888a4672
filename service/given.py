"""One picture or clip of a request, and the field it came in."""

from dataclasses import dataclass

from service.sources import Source, read_image_source


@dataclass(frozen=True)
class Given:
    """Where it comes from; `param` names its field in refusals."""

    source: Source
    param: str


def read_image(value: object, param: str) -> Given | None:
    """A picture in any form, if there is one. raises InvalidValue, UnknownParameter"""
    return None if value is None else Given(read_image_source(value, param), param)
