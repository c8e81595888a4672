"""Several films made side by side, so that one pass of a network serves them all.

Each film is made by the ordinary pipeline on a thread of its own: sampler, noise, guidance, reports
and memory are its alone. Only where it asks the network does it wait for the others, and one pass
answers all. Who shares a pass changes a film by rounding only, so films may begin late, go on from
a memory, fail or be stopped while the others go on.

The threads compute in turns, never at once: decoding takes the memory of one film, and a processor
is not fought over. Callbacks, and whatever is done with finished frames, hold nobody up.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from models.catalog import UNSHARED, ModelCard
from models.protocol import Frames, Maker, Memory, OnStep, ResumableModel, Step, Task, lacks_memory
from models.teams import end_team

PATIENCE_S = 1.0  # that a pass waits for a film which is busy with something else, once


class Question(ABC):
    """What one film asks a network, and in the end the answer or what went wrong."""

    answer: Any = None
    error: Exception | None = None

    @property
    @abstractmethod
    def kind(self) -> str:
        """Questions of one kind can share a pass."""

    @abstractmethod
    def pass_with(self, others: "Sequence[Any]") -> Sequence[Any]:
        """The answers to this question and others of its kind, in one pass of the network."""

    @property
    def settled(self) -> bool:
        """Whether there is an answer or an error."""
        return self.answer is not None or self.error is not None


class Table:
    """Where films meet: each has a place until it leaves. `turn` is held by whoever computes."""

    def __init__(self, places: int) -> None:
        self.turn = threading.Condition()
        self._taken = set(range(places))
        self._missed: set[int] = set()  # not waited for until they ask again
        self._asked: dict[int, Question] = {}
        self._most = places  # films in one pass

    def ask(self, place: int, question: Question) -> Any:
        """Wait for the pass that answers; the caller has the turn. raises what the network does"""
        if place not in self._taken:
            raise RuntimeError("a film that has left its place asks the network")
        self._asked[place] = question
        self._missed.discard(place)
        end_team()
        self.turn.notify_all()
        self.turn.wait_for(lambda: question.settled)
        if question.error is not None:
            raise question.error
        return question.answer

    def leave(self, place: int) -> None:
        """The film needs the network no more. May be repeated; the caller has not the turn."""
        with self.turn:
            self._taken.discard(place)
            self.turn.notify_all()

    def serve(self) -> None:
        """Answer until every film has left."""
        with self.turn, torch.no_grad():
            while self._taken:
                self.turn.wait_for(lambda: self._asked or not self._taken)
                if not self.turn.wait_for(self._complete, PATIENCE_S):
                    self._missed = self._taken - set(self._asked)
                questions = sorted(self._asked.values(), key=lambda question: question.kind)
                self._asked.clear()
                for _, alike in groupby(questions, key=lambda question: question.kind):
                    self._settle(list(alike))
                self.turn.notify_all()

    def _complete(self) -> bool:
        return self._taken - self._missed <= set(self._asked)

    def _settle(self, questions: Sequence[Question]) -> None:
        for start in range(0, len(questions), self._most):
            self._pass(questions[start : start + self._most])

    def _pass(self, questions: Sequence[Question]) -> None:
        """Answer in one pass. If that fails in halves, so that each film has its own fate; after
        want of memory no later pass is larger."""
        error = _answer(questions)
        if error is None:
            return
        if len(questions) == 1:
            questions[0].error = error
            return
        half = len(questions) // 2
        if lacks_memory(error):
            self._most = half
        del error  # with it go the tensors of the pass
        self._pass(questions[:half])
        self._pass(questions[half:])


@dataclass(frozen=True)
class Place:
    """The model as one film sees it that is made beside others."""

    model: ResumableModel  # its networks shared
    table: Table
    number: int

    @property
    def card(self) -> ModelCard:
        """What the model can do."""
        return self.model.card

    @property
    def weights_sha256(self) -> str:
        """Hex digest over every weight file."""
        return self.model.weights_sha256

    def generate(self, task: Task, on_step: OnStep) -> Frames:
        """Make the clip; see `models.protocol.VideoModel`."""
        return np.concatenate(list(self.stream(task, on_step)))

    def remember(self, identity: str, written: bytes | None = None) -> Memory:
        """The memory of one film, which may be gone on with alone."""
        return self.model.remember(identity, written)

    def stream(self, task: Task, on_step: OnStep, memory: Memory | None = None) -> Iterator[Frames]:
        """Make the film; see `models.protocol.ResumableModel`.

        raises ValueError at once for a task that changes the network for all
        """
        if task.adapter is not None:
            raise ValueError(f"a film with adapter {task.adapter!r} beside others: only alone")
        if task.quality in UNSHARED:
            raise ValueError(f"a film of quality {task.quality!r} beside others: only alone")

        def on_turn(step: Step) -> None:
            end_team()
            self.table.turn.release()
            try:
                on_step(step)
            finally:
                self.table.turn.acquire()

        with self.table.turn:
            film = self.model.stream(task, on_turn, memory)
        return self._pieces(film)

    def _pieces(self, film: Iterator[Frames]) -> Iterator[Frames]:
        try:
            while True:
                with self.table.turn:
                    piece = next(film, None)
                    end_team()
                if piece is None:
                    return
                yield piece
                del piece  # the next one is made without this one in memory
        finally:
            self.table.leave(self.number)


def make_together(makers: Sequence[Maker], shared: Callable[[Table, int], ResumableModel]) -> None:
    """Call every maker on a thread of its own with a model of its own; return when all are over.

    shared  the model as it is at a place of a table: its networks asked there, not called
    raises  what a maker raised, the first one's, after all are over
    """
    table = Table(len(makers))
    raised: dict[int, BaseException] = {}

    def make(number: int, maker: Maker) -> None:
        try:
            maker(Place(shared(table, number), table, number))
        except BaseException as error:
            raised[number] = error
        finally:
            table.leave(number)

    threads = [
        threading.Thread(target=make, args=pair, name=f"film-{pair[0]}", daemon=True)
        for pair in enumerate(makers)
    ]
    for thread in threads:
        thread.start()
    table.serve()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[min(raised)]


def one_by_one(makers: Sequence[Maker], model: ResumableModel) -> None:
    """Call every maker with the model itself; raises what the first that raised did, at the end."""
    raised: list[BaseException] = []
    for maker in makers:
        try:
            maker(model)
        except BaseException as error:
            raised.append(error)
    if raised:
        raise raised[0]


def _answer(questions: Sequence[Question]) -> Exception | None:
    """Answer questions of one kind in one pass, or say why not."""
    try:
        answers = questions[0].pass_with(questions[1:])
    except Exception as error:
        return error
    for question, answer in zip(questions, answers, strict=True):
        question.answer = answer
    return None
