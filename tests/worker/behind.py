"""`python -m worker` on a machine whose clock is ten minutes behind."""

import sys
import time

from rq import registry

BEHIND_S = 600

right = time.time


def now() -> float:
    return right() - BEHIND_S


time.time = now
registry.current_timestamp = lambda: int(now())  # asks the system by another way

if __name__ == "__main__":
    from worker.__main__ import main

    sys.exit(main())
