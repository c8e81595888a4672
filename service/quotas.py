"""How many requests are left, in the headers that clients read.

`RateLimit-Policy` and `RateLimit` as in draft 11 of the IETF's RateLimit fields; beside them what
OpenAI sends.
"""

import math

from worker.jobs.outcomes import Quota

WINDOW_S = 60
POLICY = "requests"
RETRY_S = (1, 60)  # what clients honour in Retry-After


def quota_headers(quota: Quota) -> dict[str, str]:
    """The headers of every answer to a caller that has a limit."""
    next_s = quota.full_in_s if quota.remaining else quota.wait_s
    return {
        "RateLimit-Policy": f'"{POLICY}";q={quota.limit};w={WINDOW_S}',
        "RateLimit": f'"{POLICY}";r={quota.remaining};t={math.ceil(next_s)}',
        "x-ratelimit-limit-requests": str(quota.limit),
        "x-ratelimit-remaining-requests": str(quota.remaining),
        "x-ratelimit-reset-requests": duration(quota.full_in_s),
    }


def retry_after(quota: Quota) -> str:
    """Whole seconds until a refused request is worth repeating."""
    shortest, longest = RETRY_S
    return str(min(max(math.ceil(quota.wait_s), shortest), longest))


def duration(seconds: float) -> str:
    """As OpenAI writes it: 40ms, 12s, 1m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
