"""`/v1/videos/characters`: a clip or picture becomes a named reference set for later jobs."""

from pathlib import Path

import structlog
from fastapi import APIRouter
from starlette.responses import Response

from service.cast import FindCharacter
from service.decoder import Decoder
from service.deps import Body, Services, Tenant, Wired
from service.errors import InvalidValue, MissingParameter, NoSuchCharacter, UnknownParameter, show
from service.forms import Tree, parse_body
from service.gathering import Gathered, Gatherer, Kind
from service.given import Given, read_image
from service.inputs import LONGEST_REFERENCE, StorageUnavailable, scratch_folder
from service.references import read_name
from service.repeats import IdempotencyKey, once
from service.schema import character_body, refusals
from service.signatures import HEAD_BYTES, read_signature
from service.sources import CHARACTER_ID, Upload, VideoId, read_video_source
from service.wire import PREFIX, Shape, written
from worker.jobs.characters import Character

log = structlog.get_logger(__name__)
router = APIRouter(tags=["characters"])

CHARACTERS = PREFIX + "/characters"
VIEWS = 3  # frames kept of a clip


class VideoCharacter(Shape):
    """OpenAI's character. The time is in Unix seconds."""

    id: str
    created_at: int
    name: str


class DeletedCharacter(Shape):
    """The receipt of a deletion."""

    id: str
    deleted: bool = True


@router.post(
    CHARACTERS,
    operation_id="createCharacter",
    summary="Name a character",
    response_model=VideoCharacter,
    responses=refusals(400, 401, 404, 409, 410, 413, 415, 422, 429, 503),
    openapi_extra=character_body(),
)
def create_character(
    body: Body, tenant: Tenant, services: Wired, idempotency_key: IdempotencyKey = None
) -> Response:
    """Keep frames of a clip, or a picture, as references of this name. A repeated call gets the
    same character."""
    tree = parse_body(body)
    name, given = read_character(tree)

    def make() -> Character:
        return take_in(name, given, tenant, services)

    find = finder(tenant, services)
    made, headers = once(idempotency_key, CHARACTERS, tree, tenant, services, find, make)
    return answer(made, headers)


def take_in(name: str, given: Given, tenant: str, services: Services) -> Character:
    """raises ApiError: for a tenant that keeps too many, an unusable file, an outage"""
    limit = services.settings.max_characters_per_tenant
    if services.characters.count(tenant) >= limit:
        raise InvalidValue(f"name: {limit} characters are kept, the most allowed", "name")
    try:
        made = keep(name, given, tenant, services)
    except OSError as error:
        raise StorageUnavailable("The character cannot be stored at the moment") from error
    log.info("character.created", character_id=made.id, tenant=tenant, views=len(made.views))
    return made


@router.get(
    CHARACTERS + "/{character_id}",
    operation_id="retrieveCharacter",
    summary="Retrieve a character",
    response_model=VideoCharacter,
    responses=refusals(401, 404, 503),
)
def retrieve_character(character_id: str, tenant: Tenant, services: Wired) -> Response:
    """What is known of a character."""
    return answer(find_character(character_id, tenant, services))


@router.delete(
    CHARACTERS + "/{character_id}",
    operation_id="deleteCharacter",
    summary="Delete a character",
    response_model=DeletedCharacter,
    responses=refusals(401, 404, 503),
)
def delete_character(character_id: str, tenant: Tenant, services: Wired) -> Response:
    """Forget a character; jobs that were given it keep what they need of it."""
    services.characters.delete(find_character(character_id, tenant, services))
    return written(DeletedCharacter(id=character_id))


def read_character(tree: Tree) -> tuple[str, Given]:
    """The name, and the clip or picture. raises BadRequest"""
    for name in tree:
        if name not in ("name", "video", "image"):
            raise UnknownParameter(f"Unknown parameter: {show(name)}", name)
    if tree.get("name") is None:
        raise MissingParameter("name: is required", "name")
    called = read_name(tree["name"], "name")
    video, image = tree.get("video"), read_image(tree.get("image"), "image")
    if (video is None) == (image is None):
        raise MissingParameter("video: exactly one of video and image is required", "video")
    return called, image or Given(read_video_source(video, "video"), "video")


def keep(name: str, given: Given, tenant: str, services: Services) -> Character:
    """raises ApiError for an unusable file, OSError"""
    with services.decoders.place(tenant), scratch_folder(services) as folder:
        found = Gatherer(services, tenant, folder).fetch(given, kind_of(given))
        with services.decoders.decoder() as decoder:
            views = develop(given, found, decoder, folder)
        return services.characters.put(tenant, name, views)


def develop(given: Given, found: Gathered, decoder: Decoder, folder: Path) -> list[Path]:
    """The views of a character as references, PNG. raises InvalidInputMedia"""
    pictures = [found.path]
    if found.kind == "video":
        pictures = pick(given, found.path, decoder, folder)
    views = [folder / f"view-{i}.png" for i in range(len(pictures))]
    size = {"longest": LONGEST_REFERENCE, "max_pixels": decoder.limits.image_pixels}
    for picture, view in zip(pictures, views, strict=True):
        decoder.ask(given.param, "make_reference", source=picture, target=view, **size)
    return views


def pick(given: Given, clip: Path, decoder: Decoder, folder: Path) -> list[Path]:
    """Frames of a clip: the one that was asked for, or some from all over it."""
    frame = given.source.frame if isinstance(given.source, VideoId) else None
    targets = [folder / f"frame-{i}.png" for i in range(1 if frame else VIEWS)]
    order = {"source": clip, "limits": decoder.limits.clip}
    if frame:
        decoder.ask(given.param, "pick_frame", target=targets[0], last=frame == "last", **order)
        return targets
    names = [str(target) for target in targets]
    facts = decoder.ask(given.param, "pick_frames", targets=names, **order)
    return targets[: facts["count"]]


def kind_of(given: Given) -> Kind:
    """What to expect: as the field says, but a picture may be uploaded as `video` too."""
    expected: Kind = "image" if given.param == "image" else "video"
    if expected == "image" or not isinstance(given.source, Upload):
        return expected
    file = given.source.file.file
    file.seek(0)
    signature = read_signature(file.read(HEAD_BYTES))
    return expected if signature is None else signature.kind


def finder(tenant: str, services: Services) -> FindCharacter:
    """Finds the characters of one tenant."""
    return lambda character_id: services.characters.get(character_id, tenant)


def find_character(character_id: str, tenant: str, services: Services) -> Character:
    """raises NoSuchCharacter"""
    found = CHARACTER_ID.fullmatch(character_id) and services.characters.get(character_id, tenant)
    if not found:
        raise NoSuchCharacter(character_id)
    return found


def answer(character: Character, headers: dict[str, str] | None = None) -> Response:
    shown = VideoCharacter(
        id=character.id, created_at=int(character.created_at), name=character.name
    )
    return written(shown, headers)
