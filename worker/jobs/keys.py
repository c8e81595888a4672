"""Every key of ours on the queue server. No other file spells the prefix."""

PREFIX = "px:"

JOB = f"{PREFIX}job:"
EVENTS = f"{PREFIX}ev:"
IDEMPOTENCY = f"{PREFIX}idem:"
FINGERPRINT = f"{PREFIX}fp:"
TENANT = f"{PREFIX}tenant:"
TENANT_ACTIVE = ":active"
TENANT_JOBS = ":jobs"
TENANT_FILES = ":files"
TENANT_CHARACTERS = ":characters"
FILE = f"{PREFIX}file:"
CHARACTER = f"{PREFIX}character:"
TENANT_LIMITS = ":limits"
TENANT_RATE = ":rate"
WORKER = f"{PREFIX}worker:"
LETTER = f"{PREFIX}letter:"
GONE = f"{PREFIX}gone:"
SAMPLES = f"{PREFIX}samples:"
API_KEY = f"{PREFIX}key:"
LINE = f"{PREFIX}line:"
TURNS = f"{PREFIX}turns:"
SERVED = f"{PREFIX}served:"
CLOCK = f"{PREFIX}clock:"
BELL = f"{PREFIX}bell:"
TAKEN = f"{PREFIX}taken:"
SHARE = f"{PREFIX}share:"
FOLLOWERS = f"{PREFIX}followers:"
ROOM = f"{PREFIX}room:"  # by model, the attempt that makes room for a job of it

API_KEYS = f"{PREFIX}keys"  # hex digests of all API keys ever made by their names
FILES = f"{PREFIX}files"  # uploaded files, tenant/id, by the time their bytes may go
INPUTS = f"{PREFIX}inputs"  # jobs with stored inputs, tenant/id, by when to look at them again
CHARACTERS = f"{PREFIX}characters"  # sets of pictures without a character, by when they may go
LIVE = f"{PREFIX}live"  # set of all non-terminal ids
WORKERS = f"{PREFIX}workers"  # worker names by the time their announcement ends
WAKE = f"{PREFIX}wake"  # pub/sub channel: the id of a job with a new event
UPSETS = f"{PREFIX}upsets"  # by model, how often a job stopped before its time: a hash of numbers
TALLY = f"{PREFIX}tally"  # how many jobs ended how, and how long they took: a hash of numbers
OUTBOX = f"{PREFIX}outbox"  # webhook letters by the time they are due
DEAD = f"{PREFIX}outbox:dead"  # letters by the time they were given up
DELIVERIES = f"{PREFIX}deliveries"  # how many tries to deliver ended how, a hash of numbers
SECRETS = f"{PREFIX}secrets"  # webhook secrets by tenant, JSON
LINK_SECRET = f"{PREFIX}link-secret"  # what links to files are signed with
HANDOUT = f"{PREFIX}handout"  # completed jobs whose film others wait for, by the time they ended
PAUSED = f"{PREFIX}paused"  # queue lists that hand nothing out, or * for all of them
JANITOR = f"{PREFIX}janitor"  # lock token of the active janitor


def job(job_id: str) -> str:
    """The row, a hash: the truth about a job."""
    return JOB + job_id


def events(job_id: str) -> str:
    """The job's capped stream of events."""
    return EVENTS + job_id


def tenant_active(tenant: str) -> str:
    """Set of the tenant's non-terminal ids."""
    return TENANT + tenant + TENANT_ACTIVE


def tenant_jobs(tenant: str) -> str:
    """The tenant's ids by creation time."""
    return TENANT + tenant + TENANT_JOBS


def tenant_limits(tenant: str) -> str:
    """The tenant's own limits, a hash; what is absent is everybody's."""
    return TENANT + tenant + TENANT_LIMITS


def api_key(digest: str) -> str:
    """Whom the key with this hex digest stands for, a hash."""
    return API_KEY + digest


def bell(queue_key: str) -> str:
    """A list that rings when a queue gets a job: idle workers block on it."""
    return BELL + queue_key


def tenant_files(tenant: str) -> str:
    """The tenant's uploaded files by creation time."""
    return TENANT + tenant + TENANT_FILES


def file(file_id: str) -> str:
    """An uploaded file's row, JSON; it expires with the file."""
    return FILE + file_id


def tenant_characters(tenant: str) -> str:
    """The tenant's characters by creation time."""
    return TENANT + tenant + TENANT_CHARACTERS


def character(character_id: str) -> str:
    """A character's row, JSON."""
    return CHARACTER + character_id


def worker(name: str) -> str:
    """What a worker last said about itself, a hash that expires."""
    return WORKER + name


def samples(model: str) -> str:
    """What clips of a model took on its workers, JSON; for workers yet to come."""
    return SAMPLES + model


def letter(letter_id: str) -> str:
    """A webhook on its way, a hash."""
    return LETTER + letter_id


def gone(tenant: str, url_digest: str) -> str:
    """When the tenant's receiver said that it wants no more."""
    return f"{GONE}{tenant}:{url_digest}"


def lua_names() -> str:
    """The names above as Lua locals, prepended to every script."""
    names = {
        "JOB": JOB,
        "EVENTS": EVENTS,
        "IDEMPOTENCY": IDEMPOTENCY,
        "FINGERPRINT": FINGERPRINT,
        "TENANT": TENANT,
        "TENANT_ACTIVE": TENANT_ACTIVE,
        "TENANT_JOBS": TENANT_JOBS,
        "TENANT_LIMITS": TENANT_LIMITS,
        "TENANT_RATE": TENANT_RATE,
        "API_KEY": API_KEY,
        "API_KEYS": API_KEYS,
        "LINE": LINE,
        "TURNS": TURNS,
        "SERVED": SERVED,
        "CLOCK": CLOCK,
        "BELL": BELL,
        "TAKEN": TAKEN,
        "ROOM": ROOM,
        "PAUSED": PAUSED,
        "SHARE": SHARE,
        "FOLLOWERS": FOLLOWERS,
        "HANDOUT": HANDOUT,
        "LIVE": LIVE,
        "WAKE": WAKE,
        "LETTER": LETTER,
        "OUTBOX": OUTBOX,
        "DEAD": DEAD,
        "DELIVERIES": DELIVERIES,
        "TALLY": TALLY,
        "UPSETS": UPSETS,
    }
    return "".join(f"local {name} = '{value}'\n" for name, value in names.items())
