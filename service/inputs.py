"""What was given with a request, made ready: fetched, decoded, stored, and named in the request.

`admit` is for every route that orders a job; a request that repeats an earlier job's gets copies of
its inputs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from service import fitting
from service.budget import appraise
from service.decoder import Decoder
from service.deps import Services
from service.errors import ApiError, IncompatibleInputs, Unavailable, VideoExpired
from service.gathering import Gathered, Gatherer
from service.given import Given
from service.intake import Order
from service.media import Media
from service.references import GivenReference
from service.sharing import submit
from service.shots import GivenShot
from service.sources import VideoId
from worker.jobs.contract import (
    Artifact,
    StoredImage,
    StoredKeyframe,
    StoredReference,
    StoredVideo,
    StoryShot,
    VideoRequest,
)
from worker.jobs.inputs import new_job_id
from worker.jobs.outcomes import Admission, StoreError, Submission

LONGEST_REFERENCE = 1024  # pixels; larger ones are scaled down
ASPECT_AGREES = (0.8, 1.25)  # of the first frame's aspect ratio to the last one's

Size = tuple[int, int]
Named = StoredImage | StoredVideo | StoredReference | StoredKeyframe | StoryShot
GIVEN = ("first_frame", "last_frame", "reference_images", "video", "mask", "keyframes", "shots")


class StorageUnavailable(Unavailable):
    """The artifact store does not take files at the moment."""

    code = "storage_unavailable"


def admit(order: Order, submission: Submission, services: Services) -> Admission:
    """Submit a request with its inputs; those of a request that makes no new job are dropped.

    submission  of `order.request`
    raises      ApiError for an input that is unusable or not there; StoreError
    """
    if not order.media and not has_inputs(order.request):
        return submit(appraise(submission, order, services), order, services)
    job_id, make = new_job_id(), prepare if order.media else repeat
    with stored_inputs(submission.tenant, job_id, services):
        request = make(order, submission.tenant, job_id, services)
        submission = replace(submission, job_id=job_id, request=request)
        admission = submit(appraise(submission, order, services), order, services)
    if admission.job.id != job_id:
        services.inputs.drop(submission.tenant, job_id)
    return admission


@contextmanager
def stored_inputs(tenant: str, job_id: str, services: Services) -> Iterator[None]:
    """Around storing and submitting: what a refusal leaves behind is dropped at once.

    After any other fault nobody knows whether the job was admitted; the janitor finds out.
    raises StorageUnavailable for a fault of the artifact store
    """
    services.inputs.announce(tenant, job_id)
    try:
        yield
    except (ApiError, StoreError):
        services.inputs.drop(tenant, job_id)
        raise
    except OSError as error:
        raise StorageUnavailable(
            "Files cannot be stored at the moment; try again shortly"
        ) from error


def prepare(order: Order, tenant: str, job_id: str, services: Services) -> VideoRequest:
    """The request with everything given prepared and stored under the job's id.

    raises ApiError naming the field; nothing is left on this machine
    """
    with services.decoders.place(tenant), scratch_folder(services) as folder:
        gatherer = Gatherer(services, tenant, folder)
        media = order.media
        found = {given: gatherer.fetch(given, "image") for given in media.images()}
        if media.video is not None:
            found[media.video] = gatherer.fetch(media.video, "video")
        with services.decoders.decoder() as decoder:
            bench = Bench(services, tenant, job_id, decoder, folder, found)
            return complete(order, bench)


@contextmanager
def scratch_folder(services: Services) -> Iterator[Path]:
    """A folder for the files of one request; the janitor clears what a killed server left."""
    scratch = services.settings.data_dir / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch, prefix="inputs-") as folder:
        yield Path(folder)


class Bench:
    """Where the files of one request are decoded and stored, one after the other."""

    def __init__(
        self,
        services: Services,
        tenant: str,
        job_id: str,
        decoder: Decoder,
        folder: Path,
        found: dict[Given, Gathered],
    ) -> None:
        self._services = services
        self._owner = (tenant, job_id)
        self._decoder = decoder
        self._folder = folder
        self._found = found
        self._pictures: dict[Given, Path] = {}
        self._stored: dict[tuple[object, ...], StoredImage] = {}
        self._count = 0

    def measure(self, given: Given) -> Size:
        """Width and height of a picture as it is meant to be seen."""
        facts = self._ask(given, "measure_image", self._picture(given))
        return facts["width"], facts["height"]

    def measure_clip(self, given: Given) -> tuple[Size, float]:
        """Width, height and frame rate of a clip."""
        facts = self._ask(
            given, "measure_clip", self._found[given].path, limits=self._decoder.limits.clip
        )
        return (facts["width"], facts["height"]), facts["fps"]

    def frame(self, given: Given, size: Size) -> StoredImage:
        """A picture as a frame of exactly this size."""
        return self._image(given, "make_frame", size=size)

    def reference(self, given: Given) -> StoredImage:
        """A picture as a reference."""
        return self._image(given, "make_reference", longest=LONGEST_REFERENCE)

    def clip(self, given: Given, plan: fitting.ClipPlan) -> StoredVideo:
        """A clip as the plan wants it."""
        target = self._target(".mp4")
        facts = self._ask(
            given,
            "make_clip",
            self._found[given].path,
            target=target,
            size=plan.source_size,
            fps=plan.source_fps,
            max_frames=plan.max_frames,
            limits=self._decoder.limits.clip,
        )
        return StoredVideo(artifact=self._put(target), **facts)

    def _image(self, given: Given, do: str, **order: Any) -> StoredImage:
        known = (self._found[given].path, given.source, do, *order.values())
        if known not in self._stored:
            target = self._target(".png")
            facts = self._ask(given, do, self._picture(given), target=target, **order)
            self._stored[known] = StoredImage(artifact=self._put(target), **facts)
        return self._stored[known]

    def _picture(self, given: Given) -> Path:
        """The file of a picture, cut out of a film first if it is a frame of one."""
        gathered = self._found[given]
        if gathered.kind == "image":
            return gathered.path
        if given not in self._pictures:
            assert isinstance(given.source, VideoId)
            target = self._target(".png")
            limits, last = self._decoder.limits.clip, given.source.frame != "first"
            self._ask(given, "pick_frame", gathered.path, target=target, limits=limits, last=last)
            self._pictures[given] = target
        return self._pictures[given]

    def _ask(self, given: Given, do: str, source: Path, **order: Any) -> dict[str, Any]:
        if do in ("measure_image", "make_frame", "make_reference"):
            order["max_pixels"] = self._decoder.limits.image_pixels
        return self._decoder.ask(given.param, do, source=source, **order)

    def _target(self, suffix: str) -> Path:
        self._count += 1
        return self._folder / f"input-{self._count}{suffix}"

    def _put(self, path: Path) -> Artifact:
        artifact = self._services.inputs.put(*self._owner, path.name, path)
        path.unlink()
        return artifact


def complete(order: Order, bench: Bench) -> VideoRequest:
    """The request with its inputs, and with what they decide."""
    draft, media = order.request, order.media
    size: Size = (draft.width, draft.height)
    decided: dict[str, Any] = {}
    if media.video is not None:
        seen = bench.measure_clip(media.video)
        draft = fitting.fit(draft, order.wishes, media, order.card, *seen)
        plan = fitting.plan_clip(draft, order.wishes, order.card, *seen)
        size = plan.size
        decided = fitting.settle(draft, plan, bench.clip(media.video, plan), order.card)
        decided["source_video_id"] = source_id(media)
    check_aspects(media.first_frame, media.last_frame, bench)
    return draft.model_copy(
        update=decided
        | {
            "first_frame": media.first_frame and bench.frame(media.first_frame, size),
            "last_frame": media.last_frame and bench.frame(media.last_frame, size),
            "mask": media.mask and bench.frame(media.mask, size),
            "keyframes": tuple(
                StoredKeyframe(frame=given.frame, image=bench.frame(given.image, size))
                for given in media.keyframes
            ),
            "reference_images": store_references(media.references, bench),
            "shots": tuple(
                store_shot(given, shot, size, bench)
                for given, shot in zip(media.shots, draft.shots, strict=True)
            ),
        }
    )


def source_id(media: Media) -> str | None:
    """The job whose film is worked on, if it is one's own."""
    source = media.video and media.video.source
    return source.id if isinstance(source, VideoId) else None


def check_aspects(first: Given | None, last: Given | None, bench: Bench) -> None:
    """raises IncompatibleInputs if two given frames of a clip have too different shapes"""
    if first is None or last is None:
        return
    (width, height), (last_width, last_height) = bench.measure(first), bench.measure(last)
    ratio = width * last_height / (height * last_width)
    low, high = ASPECT_AGREES
    if not low <= ratio <= high:
        raise IncompatibleInputs(
            f"{last.param}: the aspect ratios of first and last frame, {width}x{height} and "
            f"{last_width}x{last_height}, must agree within {low} to {high}; got {ratio:.3f}",
            last.param,
        )


def store_references(
    references: tuple[GivenReference, ...], bench: Bench
) -> tuple[StoredReference, ...]:
    """References with their pictures stored."""
    return tuple(
        StoredReference(
            image=bench.reference(reference.image),
            name=reference.name,
            reference_type=reference.reference_type,
            strength=reference.strength,
        )
        for reference in references
    )


def store_shot(given: GivenShot, shot: StoryShot, size: Size, bench: Bench) -> StoryShot:
    """A shot with its pictures stored."""
    check_aspects(given.first_frame, given.last_frame, bench)
    return shot.model_copy(
        update={
            "first_frame": given.first_frame and bench.frame(given.first_frame, size),
            "last_frame": given.last_frame and bench.frame(given.last_frame, size),
            "reference_images": store_references(given.references, bench),
        }
    )


def has_inputs(request: VideoRequest) -> bool:
    """Whether stored inputs are named in a request: one that repeats an earlier job's."""
    parts: tuple[VideoRequest | StoryShot, ...] = (request, *request.shots)
    frames = any(part.first_frame or part.last_frame for part in parts)
    return bool(
        request.video or frames or request.keyframes or any(part.reference_images for part in parts)
    )


def repeat(order: Order, tenant: str, job_id: str, services: Services) -> VideoRequest:
    """The order's request with the inputs that it names as the job's own. raises VideoExpired"""
    return copy_inputs(order.request, tenant, job_id, services)


def copy_inputs(
    request: VideoRequest, tenant: str, job_id: str, services: Services
) -> VideoRequest:
    """The request with copies of its stored inputs under another job's id, so that each job owns
    its own. Call it within `stored_inputs`.

    raises VideoExpired if an input is gone
    """
    with scratch_folder(services) as folder:

        def copy(value: object) -> object:
            if isinstance(value, Artifact):
                return copy_artifact(value, tenant, job_id, folder, services)
            if isinstance(value, Named):
                named = ((name, getattr(value, name)) for name in type(value).model_fields)
                return value.model_copy(update={name: copy(member) for name, member in named})
            return tuple(map(copy, value)) if isinstance(value, tuple) else value

        return request.model_copy(update={name: copy(getattr(request, name)) for name in GIVEN})


def copy_artifact(
    artifact: Artifact, tenant: str, job_id: str, folder: Path, services: Services
) -> Artifact:
    """raises VideoExpired"""
    name = artifact.key.rpartition("/")[2]
    path = folder / name
    try:
        with services.artifacts.open(artifact.key) as source, path.open("wb") as sink:
            while chunk := source.read(1 << 20):
                sink.write(chunk)
    except FileNotFoundError as error:
        raise VideoExpired("The inputs of this video are gone", "video_id") from error
    return services.inputs.put(tenant, job_id, name, path)
