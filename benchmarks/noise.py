"""What disturbs a measurement: waiting for a core, spinning threads, fresh pages."""

from __future__ import annotations

import threading
from pathlib import Path

_TASKS = Path("/proc/self/task")


def run_queue_seconds() -> float:
    """Seconds that all threads of this process have been ready to run without a core (Linux).

    Always 0 where the kernel does not tell.
    """
    waited = 0
    try:
        for task in _TASKS.iterdir():
            waited += int((task / "schedstat").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return waited * 1e-9


def running_threads() -> int:
    """Threads of this process, besides the caller, that run or are ready to (Linux)."""
    own, count = str(threading.get_native_id()), 0
    try:
        for task in _TASKS.iterdir():
            # The state follows the command's name, which is in parentheses and may hold any sign.
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            count += state == "R" and task.name != own
    except (OSError, IndexError):
        return 0
    return count


def page_faults() -> int:
    """Pages that this process has touched for the first time; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
