"""Everything the API can refuse, and the one handler that answers it.

ApiError
├── BadRequest 400
│   ├── InvalidValue            a field outside its type or limit
│   ├── MissingParameter        a field the request cannot do without
│   ├── UnknownParameter        a field this server does not have
│   ├── UnsupportedTask         a kind of job the model lacks
│   ├── IncompatibleInputs      fields that exclude each other
│   ├── AmbiguousFormArray      form columns that do not line up
│   ├── InvalidInputMedia       a file that is none, damaged, or over a limit
│   └── ModelNotFound           a model this server does not have
├── InvalidApiKey 401
├── PermissionDenied 403
├── NotFound 404                no such route
│   ├── VideoNotFound           never existed, deleted, or another tenant's
│   ├── VideoNotReady           exists, has no content (yet)
│   ├── NoSuchFile              never uploaded, deleted, expired, or another tenant's
│   └── NoSuchCharacter         never made, deleted, or another tenant's
├── MethodNotAllowed 405
├── VideoNotCancellable 409
├── IdempotencyInProgress 409   the first call with the key is not over; only of uploads
├── VideoExpired 410
├── PayloadTooLarge 413
├── UnsupportedMediaType 415
├── RangeNotSatisfiable 416
├── IdempotencyKeyReused 422
├── ConcurrencyLimit 429
├── RateLimitExceeded 429
├── InternalError 500           a fault of ours; says nothing about it
└── Unavailable 503
    ├── QueueFull
    ├── QueueUnavailable        the queue server does not answer
    ├── StorageUnavailable      the artifact store does not answer
    ├── NotReady                no worker could take a job
    └── Draining                this server, or every worker, is about to stop
"""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from service.quotas import retry_after
from worker.jobs import outcomes
from worker.jobs.blobs import StorageFault

RETRY_AFTER_S = 5  # clients honour 1 to 60 s
SHOWN_CHARS = 80  # of a refused value


class ErrorBody(BaseModel):
    """What went wrong, as the OpenAI SDKs read it."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorEnvelope(BaseModel):
    """Body of every answer with status 400 and above."""

    error: ErrorBody


class ApiError(Exception):
    """Base of everything answered with the envelope; carries its own status and code."""

    status = 500
    code = "internal_error"
    type = "server_error"

    def __init__(
        self, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = encodable(message)
        self.param = None if param is None else encodable(param)[:SHOWN_CHARS]
        self.headers = dict(headers or {})


class BadRequest(ApiError):
    """The request itself is wrong; repeating it cannot help."""

    status = 400
    code = "invalid_value"
    type = "invalid_request_error"


class InvalidValue(BadRequest):
    """A field is outside its type or limit."""


class MissingParameter(BadRequest):
    """A field the request cannot do without is absent."""

    code = "missing_required_parameter"


class UnknownParameter(BadRequest):
    """This server has no such field."""

    code = "unknown_parameter"


class UnsupportedTask(BadRequest):
    """The model lacks this kind of job."""

    code = "unsupported_task"


class IncompatibleInputs(BadRequest):
    """Fields that exclude each other were given together."""

    code = "incompatible_inputs"


class AmbiguousFormArray(BadRequest):
    """Columns of a form array have different lengths, so rows cannot be told."""

    code = "ambiguous_form_array"


class InvalidInputMedia(BadRequest):
    """A given file is no picture or clip of ours, is damaged, or is over a limit."""

    code = "invalid_input_media"


class ModelNotFound(BadRequest):
    """This server has no such model."""

    code = "model_not_found"


class InvalidApiKey(ApiError):
    """No key, or one that this server does not know."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"})


class PermissionDenied(ApiError):
    """The key is known and may not do this."""

    status = 403
    code = "permission_denied"
    type = "permission_error"


class NotFound(ApiError):
    """There is nothing at this path."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"


class VideoNotFound(NotFound):
    """Never existed, was deleted, or belongs to another tenant: all look alike."""

    code = "video_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"No video found with id {show(job_id)}", param="video_id")


class VideoNotReady(NotFound):
    """The video exists and has no content, yet or for good."""

    code = "video_not_ready"


class NoSuchFile(NotFound):
    """Never uploaded, deleted, expired, or another tenant's: all look alike."""

    code = "file_not_found"

    def __init__(self, file_id: str, param: str = "file_id") -> None:
        super().__init__(f"{param}: no file found with id {show(file_id)}", param)


class NoSuchCharacter(NotFound):
    """Never made, deleted, or another tenant's: all look alike."""

    code = "character_not_found"

    def __init__(self, character_id: str, param: str = "character_id") -> None:
        super().__init__(f"{param}: no character found with id {show(character_id)}", param)


class MethodNotAllowed(ApiError):
    """The path exists for other methods, named in `Allow`."""

    status = 405
    code = "method_not_allowed"
    type = "invalid_request_error"


class VideoNotCancellable(ApiError):
    """The job ended before the cancel arrived. Retrying cannot help, and SDKs are told so."""

    status = 409
    code = "video_not_cancellable"
    type = "invalid_request_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, param="video_id", headers={"x-should-retry": "false"})


class IdempotencyInProgress(ApiError):
    """The first upload with this key is not over yet; the same call soon finds what it made."""

    status = 409
    code = "idempotency_in_progress"
    type = "invalid_request_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, param="Idempotency-Key", headers={"Retry-After": "1"})


class VideoExpired(ApiError):
    """The content was kept as long as promised and is gone."""

    status = 410
    code = "video_expired"
    type = "invalid_request_error"


class PayloadTooLarge(ApiError):
    """The body, or a part of it, is over its limit."""

    status = 413
    code = "payload_too_large"
    type = "invalid_request_error"


class UnsupportedMediaType(ApiError):
    """The body is of a type that this route cannot read."""

    status = 415
    code = "unsupported_media_type"
    type = "invalid_request_error"


class RangeNotSatisfiable(ApiError):
    """The asked bytes lie outside the content."""

    status = 416
    code = "range_not_satisfiable"
    type = "invalid_request_error"


class IdempotencyKeyReused(ApiError):
    """The key came before, with another body."""

    status = 422
    code = "idempotency_key_reused"
    type = "invalid_request_error"


class ConcurrencyLimit(ApiError):
    """The tenant has as many active jobs as it may have."""

    status = 429
    code = "concurrency_limit"
    type = "rate_limit_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Retry-After": str(RETRY_AFTER_S)})


class RateLimitExceeded(ApiError):
    """The tenant has made as many requests as it may for now."""

    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"

    def __init__(self, message: str, retry_after_s: str) -> None:
        super().__init__(message, headers={"Retry-After": retry_after_s})


class InternalError(ApiError):
    """A fault of ours. The message never tells more than that."""


class Unavailable(ApiError):
    """A state that passes; the same request may succeed later."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Retry-After": str(RETRY_AFTER_S)})


class QueueFull(Unavailable):
    """The queue holds as many jobs as it may."""

    code = "queue_full"


class QueueUnavailable(Unavailable):
    """The queue server does not answer."""

    code = "queue_unavailable"


class StorageUnavailable(Unavailable):
    """The artifact store does not answer."""

    code = "storage_unavailable"


class NotReady(Unavailable):
    """No worker could take a job."""

    code = "not_ready"


class Draining(Unavailable):
    """This server, or every worker, is about to stop."""

    code = "draining"


def show(value: object) -> str:
    """A value as it may be quoted in a message: short, on one line, always encodable."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) > SHOWN_CHARS:
        text = f"{text[:SHOWN_CHARS]}… ({len(text)} characters)"
    return encodable(repr(text) if isinstance(value, str) else text)


def encodable(text: str) -> str:
    """The text with lone surrogates escaped: JSON lets them in, UTF-8 does not let them out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_api_error(error: Exception) -> ApiError:
    """The answer to any exception; what is not known here is a fault of ours."""
    match error:
        case ApiError():
            return error
        case HTTPException():
            return from_framework(error)
        case RequestValidationError():
            return from_validation(error)
        case outcomes.JobNotFound():
            return VideoNotFound(error.job_id)
        case outcomes.QueueFull():
            return QueueFull(str(error))
        case outcomes.TenantFull():
            return ConcurrencyLimit(str(error))
        case outcomes.RateLimited():
            return RateLimitExceeded(f"Too many requests: {error}", retry_after(error.quota))
        case outcomes.IdempotencyConflict() | outcomes.IdempotencyBusy():
            return from_repeat(error)
        case RedisError() | StorageFault():
            return from_outage(error)
    return InternalError("The server had an error while processing the request")


def from_repeat(error: outcomes.IdempotencyConflict | outcomes.IdempotencyBusy) -> ApiError:
    """An idempotency key that came before."""
    if isinstance(error, outcomes.IdempotencyBusy):
        return IdempotencyInProgress(f"Idempotency-Key: {error}")
    return IdempotencyKeyReused(
        "Idempotency-Key was used before with another body", param="Idempotency-Key"
    )


def from_outage(error: RedisError | StorageFault) -> ApiError:
    """What the service leans on is away."""
    if isinstance(error, StorageFault):
        return StorageUnavailable("The file storage does not answer")
    return QueueUnavailable("The queue server does not answer; nothing was accepted")


def from_framework(error: HTTPException) -> ApiError:
    """Starlette's own refusals: no such route, no such method, a body it cannot read."""
    kinds = {404: NotFound, 405: MethodNotAllowed, 413: PayloadTooLarge, 415: UnsupportedMediaType}
    kind = kinds.get(error.status_code)
    if kind is None:
        kind = BadRequest if error.status_code < 500 else InternalError
    return kind(str(error.detail), headers=error.headers)


def from_validation(error: RequestValidationError) -> ApiError:
    """The first fault of path, query or header parameters."""
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    kind = MissingParameter if first["type"] == "missing" else InvalidValue
    return kind(f"{param}: {first['msg']}; got {show(first.get('input'))}", param=param)


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """The one handler: any exception as the envelope, or as RFC 9457 for who asks for that."""
    found = as_api_error(error)
    if isinstance(found, MethodNotAllowed):
        found.headers.update(allowed(request))
    if "application/problem+json" in request.headers.get("accept", ""):
        return JSONResponse(
            {
                "type": "about:blank",
                "title": HTTPStatus(found.status).phrase,
                "status": found.status,
                "detail": found.message,
                "code": found.code,
                "param": found.param,
            },
            found.status,
            found.headers,
            media_type="application/problem+json",
        )
    body = ErrorBody(message=found.message, type=found.type, param=found.param, code=found.code)
    return JSONResponse(ErrorEnvelope(error=body).model_dump(), found.status, found.headers)


def allowed(request: Request) -> dict[str, str]:
    """`Allow`: all that the path takes. The framework names the methods of one route alone.

    A name of our own (`/v1/videos/edits`) is no id, though it would pass for one.
    """
    path = request.url.path
    found = [route for route in request.app.state.routes if route.path_regex.match(path)]
    named = [route for route in found if route.path == path]
    taken = {method for route in named or found for method in route.methods}
    return {"Allow": ", ".join(sorted(taken))} if taken else {}
