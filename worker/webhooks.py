"""Sends signed webhooks from the outbox, so that no worker ever waits for a stranger's server.

A process of its own, `python -m worker.webhooks`; any number may run. Delivery is at least once
under a constant id: a letter held by a sender that died is sent again when its lease runs out.
"""

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType

import httpx
import structlog
from redis import Redis

from worker.clock import Clock
from worker.jobs.audit import refuse_pickle
from worker.jobs.connection import web_client
from worker.jobs.outbound import Outbound, OutboundError, Times
from worker.jobs.outbox import Letter, Outbox, Outcome
from worker.jobs.signing import signed_headers
from worker.jobs.tracing import open_tracing
from worker.journal import configure_logging
from worker.patience import OUTAGES, persist
from worker.pulse import Pulse
from worker.settings import EXIT_BAD_SETTINGS, WebhookSettings, read_settings

log = structlog.get_logger()

POLL_S = 0.1
BATCH = 200
# A letter to a host that is busy with others steps aside for so long, so that it blocks nobody.
ASIDE_S = 5.0
GONE = 410


class Sender:
    """Delivers what is due, several letters at once, few at once to one host."""

    def __init__(self, settings: WebhookSettings, redis: Redis) -> None:
        self._settings = settings
        self._outbox = Outbox(redis, settings)
        self._outbound = Outbound(settings)
        total_s = settings.webhook_timeout_s
        self._times = Times(connect_s=total_s, idle_s=total_s, total_s=total_s)
        self._threads = ThreadPoolExecutor(settings.webhook_senders, "webhook")
        self._sending: dict[Future[None], str] = {}  # to the host
        self._pulse = Pulse(settings.data_dir, "webhooks")
        self._tracing = open_tracing("webhooks")

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work until told to stop; tries under way are then finished, outages waited out."""
        tick = Clock(self._settings.webhook_tick_s, at_once=True)
        log.info("webhooks.ready")
        while not stopping():
            if tick.due():
                self._pulse.beat("idle")
                try:
                    self.work_once()
                except OUTAGES as error:
                    log.warning("queue.unreachable", action="webhooks", error=type(error).__name__)
            time.sleep(POLL_S)
        self._threads.shutdown(cancel_futures=True)
        self._tracing.close()
        self._pulse.stop()
        log.info("webhooks.stopped")

    def work_once(self) -> None:
        """Begin what is due and can be begun."""
        self._clear_ended()
        busy = Counter(self._sending.values())
        for letter in self._outbox.due(BATCH):
            if len(self._sending) >= self._settings.webhook_senders:
                return
            host = _host(letter)
            if busy[host] >= self._settings.webhook_per_host:
                self._outbox.hold(letter.id, ASIDE_S)
            elif self._outbox.hold(letter.id, self._settings.webhook_lease_s):
                busy[host] += 1
                self._sending[self._threads.submit(self._deliver, letter)] = host

    def _clear_ended(self) -> None:
        for future in [future for future in self._sending if future.done()]:
            del self._sending[future]
            if (error := future.exception()) is not None:  # due again when its lease runs out
                log.error("webhook.crashed", exc_info=error)

    def _deliver(self, letter: Letter) -> None:
        """One try: sent, and written down how it went."""
        try:
            outcome, reason = self._traced(letter)
            again_in_s = self._settings.webhook_delays_s[letter.tries] if outcome == "failed" else 0
            settled = persist(
                lambda: self._outbox.settle(letter, outcome, reason, again_in_s),
                "settling a webhook",
                self._settings.webhook_lease_s,
            )
        except OUTAGES:
            return  # it is due again when its lease runs out
        log.info(
            f"webhook.{outcome}",
            webhook=letter.id,
            job_id=letter.job,
            tenant=letter.tenant,
            host=_host(letter),
            tries=letter.tries + 1,
            reason=reason or None,
            settled=settled,
        )

    def _traced(self, letter: Letter) -> tuple[Outcome, str]:
        facts: dict[str, str | int | float] = {
            "praxino.job_id": letter.job,
            "praxino.tenant": letter.tenant,
            "praxino.tries": letter.tries + 1,
            "server.address": _host(letter),
        }
        span = self._tracing.begin("webhook.deliver", "client", letter.traceparent, facts)
        try:
            outcome, reason = self._judge(letter)
            span.note({"praxino.outcome": outcome})
            if outcome != "delivered":
                span.fail(outcome)
            return outcome, reason
        finally:
            span.end()

    def _judge(self, letter: Letter) -> tuple[Outcome, str]:
        """Send the letter once; how that ended, and why."""
        last = letter.tries >= len(self._settings.webhook_delays_s)
        again: Outcome = "dead" if last else "failed"
        if self._outbox.is_unwanted(letter):
            return "dead", "the receiver had answered 410 to another one"
        try:
            status = self._post(letter)
        except OutboundError as error:
            return again, str(error)
        except ValueError as error:
            return again, str(error)
        if 200 <= status < 300:
            return "delivered", ""
        if status == GONE:
            return "gone", "the receiver answered 410"
        return again, f"the receiver answered {status}"

    def _post(self, letter: Letter) -> int:
        secrets = self._outbox.secrets(letter.tenant)
        if not secrets:
            raise ValueError("there is no secret to sign it with")
        body = letter.body()
        headers = signed_headers(letter.id, int(time.time()), body, secrets)
        headers["Content-Type"] = "application/json"
        return self._outbound.post(letter.url, body, headers, self._times)


def _host(letter: Letter) -> str:
    return httpx.URL(letter.url).host


def main() -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    configure_logging()
    refuse_pickle()
    settings = read_settings(WebhookSettings)
    if settings is None:
        return EXIT_BAD_SETTINGS
    signals: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    redis = web_client(settings.redis_url.get_secret_value())
    Sender(settings, redis).run(lambda: bool(signals))
    return 0


if __name__ == "__main__":
    sys.exit(main())
