"""Makes the checkout's benchmarks importable; they are not installed."""

import sys
from pathlib import Path

# Appended: an installed effkern must not be shadowed by the checkout's.
sys.path.append(str(Path(__file__).parents[2]))
