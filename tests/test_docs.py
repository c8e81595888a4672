"""The pages for operators say nothing that is not so, as far as a test can tell."""

import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

from redis import Redis

from models.openweights.__main__ import parser
from models.openweights.families import FAMILIES
from service.metrics import Metrics
from tests.conftest import Valkey, valkey_binary
from worker.jobs import keys, transport
from worker.jobs.connection import worker_client
from worker.jobs.contract import Status
from worker.jobs.outbox import Outbox
from worker.jobs.outcomes import StoreError, Submission
from worker.jobs.settings import JobSettings
from worker.jobs.store import JobStore

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
FAMILY_PAGES = sorted((ROOT / "docs" / "models").glob("*.md"))
OPERATIONS = ROOT / "docs" / "operations.md"


def words(page: Path, pattern: str) -> set[str]:
    return set(re.findall(pattern, page.read_text(encoding="utf-8")))


def test_the_readme_names_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if f"docs/{page.name}" not in readme] == []


def test_the_page_of_a_family_tells_weights_licence_command_memory_and_what_was_measured() -> None:
    known = {option for action in parser()._actions for option in action.option_strings}
    told = ""
    for page in FAMILY_PAGES:
        text = page.read_text(encoding="utf-8")
        told += text
        for must in ("**Licence.**", "$ praxino models add ", "$ praxino up --model "):
            assert must in text, (page.name, must)
        assert re.search(r"`[\w-]+/[\w.-]+`|/srv/[\w.-]+", text), page.name
        memory = text.partition("**Memory and time.**")[2]
        assert re.search(r"\d GB", memory), page.name
        assert "measured" in memory, page.name
        for command in re.findall(r"models add (.*)", text.replace("\\\n", " ")):
            assert set(re.findall(r"(?<= )--[a-z]+", command)) <= known, command
    titles = {family.title for family, _ in FAMILIES.values()}
    assert [title for title in titles if title.split()[-1] not in told] == []


def test_pages_name_files_and_settings_that_exist() -> None:
    settings = words(ROOT / ".env.example", r"(?m)^(\w+)=")
    for page in PAGES:
        named = words(page, r"`((?:service|worker|models|tests|deploy)/[\w/.]+)`")
        assert [name for name in named if not (ROOT / name).exists()] == [], page.name
        assert words(page, r"\b(PRAXINO_\w+)\b") - settings == set(), page.name


def test_the_page_for_operators_names_every_metric_and_no_other(store: JobStore) -> None:
    metrics = Metrics(store, ("pocket",), Outbox(store.redis, store.settings))
    given = {family.name for family in metrics.registry.collect()}
    ours = {name for name in given if name.startswith("praxino_")}
    named = {name.removesuffix("_total") for name in words(OPERATIONS, r"\b(praxino_[a-z_]+)\b")}
    assert named == ours


def test_a_copy_of_the_queue_server_made_while_jobs_come_in_restores_what_was_admitted(
    valkey: Valkey, store: JobStore, make_submission: Callable[..., Submission]
) -> None:
    """As the page says: no rewriting meanwhile, the folder copied, another server started on it."""
    early = [store.submit(make_submission(prompt=f"early {n}")).job for n in range(20)]
    enough = Event()

    def order() -> None:
        client = worker_client(valkey.url)
        other = JobStore(client, store.settings)
        while not enough.is_set():
            with suppress(StoreError):  # full: enough came in
                other.submit(make_submission(tenant="other"))
        client.close()

    thread = Thread(target=order)
    folder = Path(tempfile.mkdtemp(prefix="praxino-"))
    store.redis.config_set("auto-aof-rewrite-percentage", 0)
    thread.start()
    try:
        shutil.copytree(valkey.folder / "appendonlydir", folder / "appendonlydir")
    finally:
        enough.set()
        thread.join()
        store.redis.config_set("auto-aof-rewrite-percentage", 100)
    restored = Valkey(folder, valkey_binary())
    restored.start()
    try:
        with Redis.from_url(restored.url) as redis:
            again = JobStore(redis, JobSettings(redis_url=restored.url))  # type: ignore[arg-type]
            for job in early:
                found = again.get(job.id)
                assert (found.request, found.status) == (job.request, Status.QUEUED)
            waiting = {id.decode() for id in redis.lrange(waiting_list(), 0, -1)}
            assert {job.id for job in early} <= waiting
            assert waiting == {id.decode() for id in redis.smembers(keys.LIVE)}, "rows and queue"
    finally:
        restored.stop()
        shutil.rmtree(folder)


def waiting_list() -> str:
    return transport.queue_key(transport.queue_name("pocket"))
