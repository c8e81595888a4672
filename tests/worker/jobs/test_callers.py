"""Keys are kept as hashes only, revoked at once, and no tenant asks more often than it may."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from worker.jobs import keys
from worker.jobs.callers import KEY_START, CallerBook, Limits, digest
from worker.jobs.outcomes import CallerRefused, KeyNotFound, KeyTaken, RateLimited


@pytest.fixture
def book(redis):
    return CallerBook(redis)


def enter(book, key=None, *, tenant=None, anonymous=None, rate=0):
    return book.enter(key, tenant, anonymous, rate)


def refusal(book, rate):
    """Ask until it is too much. returns the quota that the refusal tells"""
    for _ in range(rate + 100):
        try:
            enter(book, tenant="studio", rate=rate)
        except RateLimited as error:
            return error.quota
    raise AssertionError("nothing was refused")


def test_a_key_stands_for_its_tenant(book):
    plain = book.create("ci", "studio")
    trusted = book.create("night", "studio", may_prioritise=True)
    assert plain.startswith(KEY_START)
    assert plain != trusted
    assert (enter(book, plain).tenant, enter(book, plain).may_prioritise) == ("studio", False)
    assert (enter(book, trusted).tenant, enter(book, trusted).may_prioritise) == ("studio", True)


def test_a_key_is_kept_as_its_hash_only(book, bench):
    key = book.create("ci", "studio")
    enter(book, key, rate=10)
    kept = repr(bench.rows())
    assert digest(key) in kept
    assert key not in kept
    assert key.removeprefix(KEY_START)[:12] not in kept


@pytest.mark.parametrize("presented", [None, "", "praxino_", "hash", "ci", "studio", "*"])
def test_only_the_key_itself_opens(book, presented):
    key = book.create("ci", "studio")
    with pytest.raises(CallerRefused):
        enter(book, digest(key) if presented == "hash" else presented)


def test_a_revoked_key_is_refused_at_once(book):
    key, other = book.create("ci", "studio"), book.create("night", "studio")
    enter(book, key)
    book.revoke("ci")
    with pytest.raises(CallerRefused):
        enter(book, key)
    assert enter(book, other).tenant == "studio"
    first = book.list()[0].revoked_at
    book.revoke("ci")
    assert book.list()[0].revoked_at == first
    assert datetime.fromtimestamp(first, UTC) <= datetime.now(UTC)


def test_a_name_is_never_used_twice(book):
    key = book.create("ci", "studio")
    book.revoke("ci")
    with pytest.raises(KeyTaken, match="ci"):
        book.create("ci", "lab")
    with pytest.raises(CallerRefused):
        enter(book, key)
    with pytest.raises(KeyNotFound, match="night"):
        book.revoke("night")


@pytest.mark.parametrize("name", ["", "a b", "a:b", "../x", "x" * 129])
def test_an_unsafe_name_is_refused(book, name):
    for names in ((name, "studio"), ("ci", name)):
        with pytest.raises(ValueError, match="match"):
            book.create(*names)
    with pytest.raises(ValueError, match="match"):
        book.set_limits(name, Limits())
    assert book.list() == ()


def test_keys_are_listed_by_name_without_themselves(book):
    made = [book.create(name, "studio", may_prioritise=name == "b") for name in ("b", "a")]
    book.revoke("a")
    listed = book.list()
    assert [(key.name, key.may_prioritise) for key in listed] == [("a", False), ("b", True)]
    assert [key.revoked_at is None for key in listed] == [False, True]
    assert all(key.created_at > time.time() - 60 for key in listed)
    assert not any(key in repr(listed) for key in made)


def test_anyone_may_come_until_there_is_a_key(book):
    assert enter(book, anonymous="guest").tenant == "guest"
    assert enter(book, "unused", anonymous="guest").tenant == "guest"
    with pytest.raises(CallerRefused):
        enter(book)
    book.create("ci", "studio")
    book.revoke("ci")
    for presented in (None, "unused"):
        with pytest.raises(CallerRefused):
            enter(book, presented, anonymous="guest")


def test_a_tenant_has_its_quota_and_no_more(book):
    def attempt(_):
        try:
            return enter(book, tenant="studio", rate=30).quota.remaining
        except RateLimited as error:
            return error

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, range(60)))
    took = time.monotonic() - began
    granted = [left for left in outcomes if isinstance(left, int)]
    assert 30 <= len(granted) <= 30 + took / 2 + 1  # one more every two seconds
    refusal = next(error for error in outcomes if isinstance(error, RateLimited))
    assert (refusal.quota.limit, refusal.quota.remaining) == (30, 0)
    assert 0 < refusal.quota.wait_s <= 2
    assert 50 < refusal.quota.full_in_s <= 60
    assert enter(book, tenant="lab", rate=30).quota.remaining == 29


def test_a_quota_comes_back_evenly(book):
    for left in range(299, -1, -1):
        quota = enter(book, tenant="studio", rate=300).quota
        assert quota.remaining >= left
    time.sleep(refusal(book, 300).wait_s + 0.01)
    assert enter(book, tenant="studio", rate=300).quota.remaining == 0


def test_refused_requests_do_not_push_the_quota_away(book):
    first, *later = [refusal(book, 2).wait_s for _ in range(20)]
    assert 0 < min(later) <= max(later) <= first <= 30


def test_no_limit_is_no_quota(book, bench):
    before = bench.rows()
    assert enter(book, tenant="studio", rate=0).quota is None
    assert bench.rows() == before


def test_a_tenants_own_limits_hold_for_all_its_keys_at_once(book, redis):
    key, other = book.create("a", "studio"), book.create("b", "studio")
    book.set_limits("studio", Limits(requests_per_minute=2, max_active=3))
    assert book.limits("studio") == Limits(requests_per_minute=2, max_active=3)
    assert [enter(book, it, rate=100).quota.remaining for it in (key, other)] == [1, 0]
    with pytest.raises(RateLimited):
        enter(book, key, rate=100)
    book.set_limits("studio", Limits())
    quota = enter(book, key, rate=100).quota
    assert (quota.limit, quota.remaining) == (100, 97)  # what was used stays used
    assert not redis.exists(keys.tenant_limits("studio"))
