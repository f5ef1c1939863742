"""How much other processes disturb a measurement: the time this process waited for a core."""

from __future__ import annotations

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
