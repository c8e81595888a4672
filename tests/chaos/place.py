"""What an audit looks at: a service, its queue server, its files, its tenants."""

from typing import Protocol

from redis import Redis

from tests.outside import Receiver
from worker.jobs.artifacts import ArtifactStore
from worker.jobs.settings import JobSettings
from worker.jobs.store import JobStore


class Place(Protocol):
    """A `Fleet`, or less."""

    @property
    def url(self) -> str:
        """Of the API."""
        ...

    @property
    def keys(self) -> dict[str, str]:
        """An API key of each tenant."""
        ...

    @property
    def receiver(self) -> Receiver:
        """Who is called at the end of jobs."""
        ...

    @property
    def redis(self) -> Redis:
        """The queue server."""
        ...

    @property
    def store(self) -> JobStore:
        """The rows."""
        ...

    @property
    def artifacts(self) -> ArtifactStore:
        """The films."""
        ...

    @property
    def settings(self) -> JobSettings:
        """Where both are."""
        ...
