"""Whether the end of a job can be told to the address that its caller gives."""

from service.deps import Services
from service.errors import InvalidValue, show
from service.fields import CALLBACK_URL
from worker.jobs.outbound import Refused, Unreachable


def check_callback(url: str | None, tenant: str, services: Services) -> str | None:
    """The address, once it may be called and there is a secret to sign with.

    raises InvalidValue
    """
    if url is None:
        return None
    name = CALLBACK_URL.name
    try:
        services.outbound.check(url)
    except Refused as error:
        raise InvalidValue(f"{name}: {error}; got {show(url)}", name) from error
    except Unreachable:
        pass  # its name cannot be resolved just now: whoever calls it will ask again
    if not services.outbox.secrets(tenant):
        raise InvalidValue(
            f"{name}: this server has no secret to sign your webhooks with; whoever runs it sets "
            f"PRAXINO_WEBHOOK_SECRETS, or makes one with `praxino webhooks secret {tenant}`",
            name,
        )
    return url
