"""Webhooks reach their receivers, whoever dies on the way: real senders, real servers."""

import json
import time

import pytest
from redis import Redis
from standardwebhooks import Webhook, WebhookVerificationError

from tests.senders import SECRET, Sender, until
from worker.jobs import keys
from worker.jobs.contract import Status
from worker.jobs.outbox import Outbox


@pytest.fixture(scope="module")
def shared_sender(valkey_server, tmp_path_factory, authority):
    sender = Sender(valkey_server.url, tmp_path_factory.mktemp("sender") / "log", authority)
    yield sender
    sender.kill()


@pytest.fixture
def sender(valkey, shared_sender):
    """A running sender with two retries, 0.3 and 0.4 s apart, and a lease of 2 s."""
    if not shared_sender.is_running():
        shared_sender.start()
    return shared_sender


@pytest.fixture
def idle_sender(valkey, shared_sender):
    """The sender, not running: start it when there is something to see."""
    shared_sender.kill()
    return shared_sender


@pytest.fixture
def outbox(redis, job_settings):
    return Outbox(redis, job_settings)


@pytest.fixture
def end(store, make_submission):
    """Ends a job that asked to be called. returns its id and the letter's"""

    def act(url, tenant="studio"):
        job = store.submit(make_submission(callback_url=url, tenant=tenant)).job
        store.cancel(job.id, tenant)
        return job.id, job.id.replace("video_", "evt_")

    return act


def received(receiver, count=1, limit_s=30.0):
    return until(lambda: len(receiver.requests()) >= count and receiver.requests(), limit_s)


def is_empty(redis: Redis) -> bool:
    return not redis.exists(keys.OUTBOX, keys.DEAD) and not redis.keys(keys.letter("*"))


def test_the_end_of_a_job_is_told_once_and_signed(sender, receiver, end, redis, outbox):
    job_id, letter_id = end(receiver.url())
    (request,) = received(receiver)
    event = Webhook(SECRET).verify(request.body, request.headers)
    assert event == json.loads(request.body)
    assert event["data"] == {"id": job_id, "status": "failed"}
    assert (event["id"], event["object"], event["type"]) == (letter_id, "event", "video.failed")
    assert abs(event["created_at"] - time.time()) < 60
    assert request.headers["webhook-id"] == letter_id
    assert request.headers["content-type"] == "application/json"
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body.replace(b"failed", b"completed"), request.headers)
    until(lambda: is_empty(redis))
    assert outbox.deliveries() == {"delivered": 1}
    time.sleep(0.5)
    assert len(receiver.requests()) == 1


def test_a_job_without_callback_writes_no_letter(store, make_submission, redis):
    job = store.submit(make_submission()).job
    store.cancel(job.id, "studio")
    assert is_empty(redis)


def test_a_letter_is_written_with_the_end_and_never_before(store, make_submission, outbox):
    job = store.submit(make_submission(callback_url="https://receiver.example/")).job
    assert outbox.due(9) == []
    store.cancel(job.id, "studio")
    (letter,) = outbox.due(9)
    ended = store.get(job.id)
    assert (letter.job, letter.status, letter.tries) == (job.id, Status.FAILED, 0)
    assert letter.created_at == pytest.approx(ended.completed_at, abs=1e-3)
    store.cancel(job.id, "studio")
    assert outbox.due(9) == [letter]


def test_a_dead_receiver_is_tried_again_and_hears_after_its_recovery(
    idle_sender, receiver, end, outbox, redis
):
    idle_sender.start(webhook_retries_s="0.3,0.3,0.3,0.3,0.3,0.3,0.3,30,30")
    receiver.stop()
    _, letter_id = end(receiver.url())
    until(lambda: outbox.deliveries().get("failed", 0) >= 2)
    receiver.start()
    (request,) = received(receiver)
    Webhook(SECRET).verify(request.body, request.headers)
    assert request.headers["webhook-id"] == letter_id
    until(lambda: is_empty(redis))
    idle_sender.kill()


def test_tries_keep_id_and_body_and_wait_as_long_as_told(sender, receiver, end, outbox):
    receiver.answer(500, 302, 200)
    _, letter_id = end(receiver.url())
    first, second, third = received(receiver, 3)
    assert {one.headers["webhook-id"] for one in (first, second, third)} == {letter_id}
    assert first.body == second.body == third.body
    assert second.at - first.at >= 0.3
    assert third.at - second.at >= 0.4
    for request in (first, second, third):
        Webhook(SECRET).verify(request.body, request.headers)
    until(lambda: outbox.deliveries() == {"failed": 2, "delivered": 1})


def test_after_the_last_try_a_letter_is_dead_until_it_is_sent_again(
    sender, receiver, end, outbox, redis
):
    receiver.answer(500, 404, 503)
    _, letter_id = end(receiver.url())
    (letter,) = until(outbox.dead)
    assert (letter.id, letter.tries, letter.reason) == (letter_id, 3, "the receiver answered 503")
    assert outbox.deliveries() == {"failed": 2, "dead": 1}
    assert 0 < redis.ttl(keys.letter(letter_id)) <= 30 * 86400
    time.sleep(0.6)
    assert len(receiver.requests()) == 3
    assert outbox.redeliver(letter_id)
    *_, last = received(receiver, 4)
    assert last.headers["webhook-id"] == letter_id
    until(lambda: is_empty(redis))
    assert not outbox.redeliver(letter_id)


def test_410_ends_it_for_what_was_asked_before_and_not_after(sender, receiver, end, outbox, store):
    receiver.answer("slow:0.5", 410)
    url = receiver.url()
    end(url)
    _, gone = end(url)  # one at a time to this host: steps aside, and then is answered 410
    _, waiting = end(url)
    until(lambda: {letter.id for letter in outbox.dead()} == {gone, waiting})
    reasons = {letter.id: letter.reason for letter in outbox.dead()}
    sent = [request.headers["webhook-id"] for request in receiver.requests()]
    assert sent.count(gone) + sent.count(waiting) == 1
    assert sorted(reasons.values()) == [
        "the receiver answered 410",
        "the receiver had answered 410 to another one",
    ]
    _, later = end(url)  # asked for after it: wanted again
    until(lambda: receiver.requests()[-1].headers["webhook-id"] == later)


def test_a_sender_killed_between_send_and_acknowledgement_sends_again(sender, receiver, end, redis):
    receiver.answer("slow:1.2")
    _, letter_id = end(receiver.url())
    received(receiver)
    sender.kill()
    sender.start()
    first, second = received(receiver, 2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == letter_id
    assert first.body == second.body
    until(lambda: is_empty(redis))


def test_letters_survive_a_kill_of_the_queue_server(
    idle_sender, receiver, end, valkey, outbox, redis
):
    idle_sender.start(webhook_retries_s="1.5,1,1,1,1,1")
    receiver.stop()
    _, letter_id = end(receiver.url())
    until(lambda: outbox.deliveries().get("failed"))
    time.sleep(1.1)  # what is older than a second is on disk
    valkey.kill()
    time.sleep(0.5)
    receiver.start()
    valkey.start()
    (request,) = received(receiver)
    assert request.headers["webhook-id"] == letter_id
    until(lambda: is_empty(redis))
    assert idle_sender.is_running()
    idle_sender.kill()


def test_a_silent_receiver_holds_up_nobody_else(sender, receiver, plain_receiver, end):
    for _ in range(24):  # three times as many as the sender has threads
        end(receiver.url("silent"))
    received(receiver)
    began = time.monotonic()
    end(plain_receiver.url(host="localhost"))
    received(plain_receiver)
    assert time.monotonic() - began < 1.5  # one silence takes as long


def test_an_address_that_may_not_be_called_any_more_is_not_called(
    idle_sender, receiver, end, outbox
):
    idle_sender.start(outbound_networks="10.0.0.0/8")
    end(receiver.url())
    (letter,) = until(outbox.dead)
    assert "not on the public internet" in (letter.reason or "")
    assert receiver.requests() == []
    idle_sender.kill()


def test_a_tenant_with_a_secret_of_its_own_is_not_signed_with_everybodys(
    sender, receiver, end, redis, job_settings
):
    outbox = Outbox(redis, job_settings.model_copy(update={"webhook_secrets": ()}))
    assert outbox.secrets("studio") == ()
    old, new = outbox.rotate("studio"), outbox.rotate("studio")
    *kept, everybodys = json.loads(redis.hget(keys.SECRETS, "studio"))
    assert everybodys[1] - time.time() == pytest.approx(86400, abs=60)
    redis.hset(keys.SECRETS, "studio", json.dumps(kept))  # a day later
    end(receiver.url())
    end(receiver.url(), tenant="other")
    own, other = sorted(received(receiver, 2), key=lambda one: SECRET in signers(one, old, new))
    assert signers(own, old, new) == {old, new}
    assert signers(other, old, new) == {SECRET}


def signers(request, *secrets):
    """Which secrets verify a request."""
    found = set()
    for secret in (SECRET, *secrets):
        try:
            Webhook(secret).verify(request.body, request.headers)
            found.add(secret)
        except WebhookVerificationError:
            pass
    return found


def test_a_rotated_secret_ends_after_a_day(redis, job_settings, monkeypatch):
    outbox = Outbox(redis, job_settings)
    old, new = outbox.rotate("studio"), outbox.rotate("studio")
    assert outbox.secrets("studio") == (new, old)
    text = redis.hget(keys.SECRETS, "studio").decode()
    entries = json.loads(text)
    assert entries[1][1] - time.time() == pytest.approx(86400, abs=60)
    entries[1][1] = time.time() - 1
    redis.hset(keys.SECRETS, "studio", json.dumps(entries))
    assert outbox.secrets("studio") == (new,)


def test_a_sender_told_to_stop_finishes_what_it_sends(sender, receiver, end, redis):
    receiver.answer("slow:0.7")
    end(receiver.url())
    received(receiver)
    assert sender.stop() == 0
    assert is_empty(redis)


def test_two_senders_send_a_letter_once(outbox, end):
    _, letter_id = end("https://receiver.example/")
    assert outbox.hold(letter_id, 30)
    assert not outbox.hold(letter_id, 30)
    assert outbox.due(9) == []


def test_a_late_failure_does_not_undo_what_another_sender_settled(outbox, end, redis):
    end("https://receiver.example/")
    (letter,) = outbox.due(9)
    assert outbox.settle(letter, "failed", "the receiver answered 500", 60)
    assert not outbox.settle(letter, "dead", "the receiver answered 500")
    assert outbox.dead() == []
    assert outbox.settle(letter, "delivered", "")  # late, but true
    assert is_empty(redis)
    assert not outbox.settle(letter, "failed", "the receiver answered 500", 60)
    assert outbox.deliveries() == {"failed": 1, "delivered": 1}
