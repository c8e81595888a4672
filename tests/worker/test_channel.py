"""Messages survive the socketpair whole; anything else is refused."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from worker.channel import Channel, ChannelClosed, ChannelGarbled
from worker.jobs.contract import Stage
from worker.messages import FROM_CHILD, MAX_MESSAGE_BYTES, Failed, FromChild, StageStarted, StepDone

Ends = tuple[socket.socket, Channel[FromChild]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    theirs, ours = socket.socketpair()
    channel = Channel(ours, FROM_CHILD, send_timeout_s=0.3)
    yield theirs, channel
    theirs.close()
    channel.close()


def test_messages_arrive_whole_and_in_order(ends: Ends) -> None:
    theirs, channel = ends
    sent = [StepDone(exec="a\nb", index=index, total=900) for index in range(900)]
    child = Channel(theirs, FROM_CHILD)
    threading.Thread(target=lambda: [child.send(message) for message in sent]).start()
    assert [channel.receive(5) for _ in sent] == sent
    assert channel.receive(0.0) is None


def test_pieces_make_one_message(ends: Ends) -> None:
    theirs, channel = ends
    line = StageStarted(exec="x", stage=Stage.DECODING).model_dump_json().encode() + b"\n"
    for index in range(len(line)):
        assert channel.receive(0.0) is None
        theirs.sendall(line[index : index + 1])
    assert channel.receive(1.0) == StageStarted(exec="x", stage=Stage.DECODING)


def test_torn_line_is_no_message(ends: Ends) -> None:
    theirs, channel = ends
    theirs.sendall(b'{"type": "step", "exec": "x", "index": 1, "total": 2}')
    theirs.close()
    with pytest.raises(ChannelClosed):
        channel.receive(1.0)


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe", b"[]", b'{"type": "dance"}', b'{"type": "step", "exec": "secret"}', b"NaN"],
)
def test_foreign_lines_are_refused_without_their_content(ends: Ends, line: bytes) -> None:
    theirs, channel = ends
    theirs.sendall(line + b"\n")
    with pytest.raises(ChannelGarbled) as caught:
        channel.receive(1.0)
    assert "secret" not in str(caught.value)


def test_endless_line_is_refused(ends: Ends) -> None:
    theirs, channel = ends

    def flood() -> None:
        with suppress(OSError):  # the reader hangs up
            theirs.sendall(b"x" * (2 * MAX_MESSAGE_BYTES))

    flooder = threading.Thread(target=flood)
    flooder.start()
    with pytest.raises(ChannelGarbled):
        channel.receive(5.0)
    channel.close()
    flooder.join()


def test_message_over_the_limit_is_not_sent(ends: Ends) -> None:
    _, channel = ends
    message = Failed(
        exec=None,
        code="internal_error",  # type: ignore[arg-type]
        message="x" * MAX_MESSAGE_BYTES,
        retryable=False,
        fatal=False,
    )
    with pytest.raises(ValueError, match=str(MAX_MESSAGE_BYTES)):
        channel.send(message)


def test_reader_that_takes_nothing_closes_the_channel(ends: Ends) -> None:
    _, channel = ends
    message = StageStarted(exec="x" * 1_000_000, stage=Stage.DECODING)
    with pytest.raises(ChannelClosed):
        channel.send(message)


def test_gone_reader_closes_the_channel(ends: Ends) -> None:
    theirs, channel = ends
    theirs.close()
    with pytest.raises(ChannelClosed):
        channel.send(StageStarted(exec="x", stage=Stage.DECODING))
