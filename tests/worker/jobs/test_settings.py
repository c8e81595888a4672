"""Settings come from the environment when asked, never on import, and hide their secrets."""

import pytest
from pydantic import ValidationError

from worker.jobs.connection import web_client, worker_client
from worker.jobs.settings import JobSettings, StorageSettings


def test_settings_are_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("PRAXINO_REDIS_URL", "redis://:hunter2@127.0.0.1:6379/0")
    monkeypatch.setenv("PRAXINO_MAX_QUEUE_DEPTH", "7")
    settings = JobSettings()
    assert settings.max_queue_depth == 7
    assert "hunter2" not in repr(settings)


def test_a_queue_server_must_be_named(monkeypatch):
    monkeypatch.delenv("PRAXINO_REDIS_URL", raising=False)
    with pytest.raises(ValidationError, match="redis_url"):
        JobSettings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redis_url", "http://127.0.0.1"),
        ("max_queue_depth", 0),
        ("max_attempts", 0),
        ("lease_s", 0),
        ("job_timeout_s", -1),
    ],
)
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(ValidationError, match=name):
        JobSettings(**{"redis_url": "redis://127.0.0.1", name: value})


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "unix:///nowhere.sock", "rediss://h:1"])
def test_clients_are_made_without_connecting(url):
    for make in (web_client, worker_client):
        with make(url) as client:
            assert client.get_encoder().decode_responses is False


@pytest.mark.parametrize(
    "url", ["http://host/x", "s3://", "s3://B", "s3://films/../x", "s3://films/a//b"]
)
def test_a_store_that_cannot_be_is_refused(url):
    with pytest.raises(ValidationError, match="artifacts_url"):
        StorageSettings(artifacts_url=url)


def test_folders_and_buckets_are_told_apart(tmp_path):
    assert StorageSettings(data_dir=tmp_path).artifacts_dir == tmp_path / "artifacts"
    for url in (str(tmp_path), tmp_path.as_uri()):
        assert StorageSettings(artifacts_url=url).artifacts_dir == tmp_path
        assert StorageSettings(artifacts_url=url).bucket is None
    assert StorageSettings(artifacts_url="s3://films").bucket == ("films", "")
    assert StorageSettings(artifacts_url="s3://films/a/b/").bucket == ("films", "a/b/")


def test_storage_settings_reach_another_process_whole(monkeypatch, s3_fields):
    settings = StorageSettings(**s3_fields)
    for name, value in settings.storage_environment().items():
        monkeypatch.setenv(name, value)
    assert StorageSettings() == settings
    assert s3_fields["s3_secret_access_key"] not in repr(settings)
