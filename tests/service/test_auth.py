"""API keys stand for tenants and are never needed in the clear."""

import pytest
from pydantic import SecretStr, ValidationError

from service.auth import read_keys
from service.settings import ServiceSettings
from worker.jobs.callers import digest


def ring(*keys):
    return read_keys(map(SecretStr, keys))


def test_a_key_stands_for_its_tenant():
    keys = ring("studio:one", f"lab:sha256:{digest('two')}", "lab:three")
    assert [keys.tenant_of(key) for key in ("one", "two", "three")] == ["studio", "lab", "lab"]


def test_a_key_without_a_name_is_a_tenant_of_its_own():
    bare, hashed = ring("one"), ring(f"sha256:{digest('one')}")
    assert bare.tenant_of("one") == hashed.tenant_of("one") != ring("two").tenant_of("two")
    assert "one" not in bare.tenant_of("one")


@pytest.mark.parametrize("presented", [None, "", "two", digest("one"), "studio:one", "ONE"])
def test_only_the_key_itself_opens(presented):
    assert ring("studio:one").tenant_of(presented) is None


@pytest.mark.parametrize("key", ["", "a:", ":k", "a:b:c", "sha256:zz", "a b:k", "../x:k", "a/b:k"])
def test_malformed_keys_are_refused_without_being_quoted(key):
    with pytest.raises(ValueError, match="API key") as caught:
        ring(key)
    assert key == "" or key not in str(caught.value)


def test_keys_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("PRAXINO_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("PRAXINO_API_KEYS", "studio:very-secret, lab:other")
    settings = ServiceSettings()
    assert read_keys(settings.api_keys).tenant_of("very-secret") == "studio"
    assert "very-secret" not in repr(settings)
    monkeypatch.setenv("PRAXINO_API_KEYS", "bad:key:very-secret")
    with pytest.raises(ValidationError) as caught:
        ServiceSettings()
    assert "very-secret" not in str(caught.value)
