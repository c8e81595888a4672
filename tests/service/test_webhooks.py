"""Callbacks over the API: refused before the queue, told by the sender, read by the SDKs."""

import os
import re

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook
from typer.testing import CliRunner

from service.cli import app
from tests.senders import SECRET, Sender, sender_settings, until
from worker.jobs import keys
from worker.jobs.outbox import Outbox

PUBLIC = "https://1.1.1.1/hook"


@pytest.fixture(scope="module")
def sender(valkey_server, tmp_path_factory, authority):
    """A sender that knows everybody's secret."""
    opened = Sender(valkey_server.url, tmp_path_factory.mktemp("sender") / "log", authority)
    opened.start()
    yield opened
    opened.kill()


@pytest.fixture
def api(serving, authority):
    """An API that may call the receivers and has a secret."""
    fields = sender_settings(authority)
    return serving(**fields | {"webhook_secrets": (SecretStr(SECRET),)})


def order(client, **fields):
    return client.post("/v1/videos", json={"prompt": "a red fox walks to the left"} | fields)


@pytest.mark.parametrize(
    ("url", "because"),
    [
        ("https://10.0.0.1/hook", "not on the public internet"),
        ("https://[::ffff:10.0.0.1]/hook", "not on the public internet"),
        ("https://169.254.169.254/latest", "not on the public internet"),
        ("http://1.1.1.1/hook", "https:// only"),
        ("https://user:word@1.1.1.1/hook", "user name or password"),
        ("ftp://1.1.1.1/hook", "must begin with"),
        ("hook", "must begin with"),
        ("", "must begin with"),
        ("https://" + "a" * 64 + ".example/", "is unknown"),
        (7, "must be a string"),
        ("https://1.1.1.1/" + "a" * 8192, "the limit is 8192"),
    ],
)
def test_a_callback_that_may_not_be_called_is_refused_before_the_queue(
    api, client, store, url, because
):
    answer = order(client, callback_url=url)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == "callback_url"
    assert because in error["message"]
    assert store.live_ids() == set()


def test_without_a_secret_no_callback_is_taken(serving, store):
    api = serving()
    with api.client() as client:
        answer = order(client, callback_url=PUBLIC)
        assert answer.status_code == 400
        assert "praxino webhooks secret anonymous" in answer.json()["error"]["message"]
        Outbox(store.redis, api.settings).rotate("anonymous")
        assert order(client, callback_url=PUBLIC).status_code == 200


def test_a_callback_has_an_alias_that_must_agree(api, client, redis):
    job = order(client, webhook=PUBLIC).json()
    assert redis.hget(keys.job(job["id"]), "callback") == PUBLIC.encode()
    assert order(client, webhook=PUBLIC, callback_url=PUBLIC).status_code == 200
    answer = order(client, webhook=PUBLIC, callback_url=PUBLIC + "2")
    assert answer.status_code == 400
    form = client.post("/v1/videos", data={"prompt": "a fox", "callback_url": PUBLIC})
    assert form.status_code == 200


def test_a_callback_is_never_shown(api, client):
    job = order(client, callback_url=PUBLIC + "?token=abc").json()
    assert "abc" not in client.get(f"/v1/videos/{job['id']}").text


def test_the_sdks_unwrap_what_is_sent_and_refuse_what_is_tampered_with(
    api, client, hand, sender, receiver, sdk
):
    job = order(client, callback_url=receiver.url()).json()
    hand.finish(job["id"])
    (request,) = until(receiver.requests)
    given = {"body": request.body.decode(), "headers": request.headers, "secret": SECRET}
    assert sdk.drive("webhook", given=given) == {
        "id": request.headers["webhook-id"],
        "type": "video.completed",
        "video": job["id"],
        "tampered_refused": True,
    }


def test_deliveries_are_counted_for_scrapers(api, client, hand, sender, receiver):
    receiver.answer(500)
    hand.finish(order(client, callback_url=receiver.url()).json()["id"])
    metric = r'praxino_webhook_deliveries_total\{outcome="(\w+)"\} (\d)'
    wanted = {("failed", "1"), ("delivered", "1")}
    until(lambda: set(re.findall(metric, client.get("/metrics").text)) == wanted)


@pytest.fixture
def run(api, monkeypatch):
    """Runs `praxino webhooks` as somebody who knows only where the queue server is."""
    for name in os.environ:
        if name.startswith("PRAXINO_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PRAXINO_REDIS_URL", api.settings.redis_url.get_secret_value())
    monkeypatch.setenv("COLUMNS", "400")
    return lambda *arguments: CliRunner().invoke(app, ["webhooks", *arguments])


def test_dead_letters_are_listed_and_sent_again_from_the_command_line(
    api, client, hand, sender, receiver, redis, run
):
    receiver.answer(500, 500, 500)
    job = order(client, callback_url=receiver.url("answers?token=abc")).json()
    hand.finish(job["id"])
    outbox = Outbox(redis, api.settings)
    (letter,) = until(outbox.dead)
    listed = run("dead")
    assert listed.exit_code == 0, listed.stderr
    assert letter.id in listed.stdout
    assert "the receiver answered 500" in listed.stdout
    assert "abc" not in listed.stdout
    again = run("redeliver", letter.id, "evt_none")
    assert again.exit_code == 1
    assert "not among the dead: evt_none" in again.stderr
    until(lambda: len(receiver.requests()) == 4)
    until(lambda: not redis.exists(keys.letter(letter.id)))
    assert letter.id not in run("dead").stdout


def test_a_secret_made_on_the_command_line_signs_from_the_next_letter_on(
    api, client, hand, sender, receiver, run
):
    secret = run("secret", "anonymous").stdout.strip()
    hand.finish(order(client, callback_url=receiver.url()).json()["id"])
    (request,) = until(receiver.requests)
    assert Webhook(secret).verify(request.body, request.headers)["type"] == "video.completed"
    Webhook(SECRET).verify(request.body, request.headers)  # for a day more
    shown = run("secret", "anonymous", "--show").stdout.split()
    assert shown == [secret]  # everybody's is a setting that the command line was not told
