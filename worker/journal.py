"""Structured logs on standard error, one JSON object a line. Prompts never go here."""

import logging
import sys
from contextlib import suppress
from typing import TextIO, cast

import structlog


class Sink:
    """Standard error, which may lie on a full disk: what cannot be logged ends no job."""

    def write(self, text: str) -> None:
        """Write, or not."""
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Flush, or not."""
        with suppress(OSError):
            sys.stderr.flush()


def configure_logging(level: int = logging.INFO) -> None:
    """Send structlog's events to standard error and silence RQ's chatter."""
    logging.getLogger("rq").setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, Sink())),
        cache_logger_on_first_use=False,
    )
