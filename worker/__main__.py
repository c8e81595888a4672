"""`python -m worker`: one supervisor and its inference child, until told to stop."""

import sys

import structlog

from worker.jobs.audit import refuse_pickle
from worker.journal import configure_logging
from worker.launcher import CrashLoop, LoadFailed
from worker.patience import OUTAGES
from worker.settings import EXIT_BAD_SETTINGS, WorkerSettings, read_settings
from worker.supervisor import Supervisor

log = structlog.get_logger()

EXIT_LOAD_FAILED = 3
EXIT_CRASH_LOOP = 5
EXIT_QUEUE_GONE = 6


def main() -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    configure_logging()
    refuse_pickle()
    settings = read_settings(WorkerSettings)
    if settings is None:
        return EXIT_BAD_SETTINGS
    try:
        Supervisor(settings).serve()
    except LoadFailed as error:
        log.error("worker.load_failed", reason=str(error))
        return EXIT_LOAD_FAILED
    except CrashLoop as error:
        log.error("worker.crash_loop", reason=str(error))
        return EXIT_CRASH_LOOP
    except OUTAGES as error:
        log.error("worker.queue_gone", reason=type(error).__name__)
        return EXIT_QUEUE_GONE
    return 0


if __name__ == "__main__":
    sys.exit(main())
