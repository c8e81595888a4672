"""One film made by several processes, each with a share of every pass of the network.

Rank 0 leads: it has the film, its reports and its memory. The others follow: they run the same
pipeline on the same task, meet the leader in the network only, and throw their frames away. At
every report they wait for a word from the leader, who alone decides whether the film goes on; so it
is stopped in all of them at the same step, and nobody waits in the network for one who has left.

How a network is shared is not known here, nor who starts the processes; see
`models.openweights.spread` and `worker.ranks`.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from models.catalog import ModelCard
from models.parcel import unwrap, wrap_up
from models.protocol import Cancelled, Frames, Memory, OnStep, ResumableModel, Step, Task

GO, STOP, ENDED = b"go", b"stop", b"ended"
PATIENCE_S = 10.0  # for the others to end a film that has failed or was stopped in one rank


class RanksApart(Exception):
    """The ranks no longer do the same: together they cannot make another film."""


@dataclass(frozen=True)
class SharedMemory:
    """A film's memory, and under which name the other ranks read it."""

    own: Memory
    identity: str

    @property
    def steps(self) -> int:
        """Denoising steps that need not be made again."""
        return self.own.steps

    def write(self) -> bytes:
        """All of it, for `Leader.remember`."""
        return self.own.write()


class Leader:
    """The model at rank 0, as if it were alone. It makes one film at a time, so it is no
    `BatchableModel`.

    followers  the other ranks, in order
    way        how networks are shared; with the number of ranks it decides how numbers are rounded
    """

    def __init__(self, model: ResumableModel, followers: Sequence[Connection], way: str) -> None:
        self._model = model
        self._followers = followers
        self._way = f"{len(followers) + 1} {way}"
        self._together = True  # nobody is at a film

    @property
    def card(self) -> ModelCard:
        """What the model can do."""
        return self._model.card

    @property
    def weights_sha256(self) -> str:
        """Hex digest over every weight file."""
        return self._model.weights_sha256

    def generate(self, task: Task, on_step: OnStep) -> Frames:
        """Make the clip; see `models.protocol.VideoModel`."""
        return np.concatenate(list(self.stream(task, on_step)))

    def remember(self, identity: str, written: bytes | None = None) -> SharedMemory:
        """The memory of one film, which as many ranks go on with."""
        identity = f"{identity} {self._way}"
        return SharedMemory(self._model.remember(identity, written), identity)

    def stream(self, task: Task, on_step: OnStep, memory: Memory | None = None) -> Iterator[Frames]:
        """Make the film in all ranks; see `models.protocol.ResumableModel`.

        raises RanksApart if another rank does not end the film when this one does
        """

        def on_agreed(step: Step) -> None:
            on_step(step)
            self._say(GO)

        assert memory is None or isinstance(memory, SharedMemory)  # as `remember` made it
        own = None if memory is None else memory.own
        film = self._model.stream(task, on_agreed, own)  # refuses before anybody is told
        return self._pieces(film, task, memory)

    def _pieces(
        self, film: Iterator[Frames], task: Task, memory: SharedMemory | None
    ) -> Iterator[Frames]:
        if not self._together:
            raise RanksApart("a film before was not ended by all ranks")
        self._together = False
        begun = memory is not None and memory.steps > 0
        past = (memory.identity.encode(), memory.write()) if memory and begun else (b"", b"")
        self._say(wrap_up(task), *past)
        try:
            for piece in film:
                yield piece
                del piece
                self._say(GO)
        except BaseException as error:
            self._say(STOP)
            self._meet(error)
            raise
        self._meet(None)

    def _say(self, *words: bytes) -> None:
        try:
            for follower in self._followers:
                for word in words:
                    follower.send_bytes(word)
        except OSError as error:
            raise RanksApart("a rank is gone") from error

    def _meet(self, error: BaseException | None) -> None:
        """Wait until the film has ended in all ranks; after an error not for long."""
        deadline = time.monotonic() + PATIENCE_S
        for rank, follower in enumerate(self._followers, 1):
            left_s = None if error is None else max(0.0, deadline - time.monotonic())
            try:
                if not follower.poll(left_s):
                    raise RanksApart(f"rank {rank} does not end its film") from error
                follower.recv_bytes()
            except (EOFError, OSError) as gone:
                raise RanksApart(f"rank {rank} is gone") from (error or gone)
        self._together = True


def follow(model: ResumableModel, leader: Connection) -> None:
    """Make the films that the leader makes, until it is gone.

    raises what a film raises here that the leader goes on with
    """
    while True:
        try:
            task, identity, past = (leader.recv_bytes() for _ in range(3))
        except (EOFError, OSError):
            return
        accompany(model, leader, unwrap(task), identity.decode(), past)
        leader.send_bytes(ENDED)


def accompany(
    model: ResumableModel, leader: Connection, task: Task, identity: str, past: bytes
) -> None:
    """Make one film as the leader does, for as long as it says so."""

    def await_word(_: Step | None = None) -> None:
        if leader.recv_bytes() != GO:
            raise Cancelled

    try:
        memory = model.remember(identity, past) if past else None
        for _ in model.stream(task, await_word, memory):
            await_word()
    except Cancelled:
        return
    except Exception:
        if not is_stopped(leader):
            raise


def is_stopped(leader: Connection) -> bool:
    """Whether the leader's film has failed as well."""
    deadline = time.monotonic() + PATIENCE_S / 2
    while leader.poll(max(0.0, deadline - time.monotonic())):
        if leader.recv_bytes() == STOP:
            return True
    return False
