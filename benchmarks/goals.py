"""What the CPU kernels are to reach on the 37 layers, in either layout, in float32."""

from __future__ import annotations

# Geometric mean of the time over the roofline time, at most: pass -> batch -> figure.
OVER_ROOFLINE = {
    "fwd": {1: 1.8, 16: 1.6},
    "dgrad": {1: 2.2, 16: 2.0},
    "wgrad": {1: 2.5, 16: 2.2},
}
# Geometric mean of the best peer's time over effkern's, at least.
TIMES_AS_FAST = {"fwd": 2.0, "dgrad": 2.0, "wgrad": 5.0}
# The same on the worst layer, at least.
WORST_LAYER = {"fwd": 0.95}
# 16-bit time over effkern's own float32 time, at most, on any layer.
HALF_OVER_FLOAT32 = 1.0
