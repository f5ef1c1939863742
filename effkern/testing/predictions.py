"""Predicted times of single launches, and the rule that they may not grow unnoticed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..prediction import BY_CAPABILITY, WARP, predict
from .launch_facts import LaunchFacts

# A predicted time may become longer by this, unless the change has a new baseline.
MOST_GROWTH = 0.03


class Predicted(NamedTuple):
    """Of one launch: lane instructions per pixel of its result (for weight gradients, of the
    output's), and multiply-adds and matrix instructions among them."""

    microseconds: float
    instructions_per_output: float
    multiply_add_share: float


def predicted(
    facts: LaunchFacts, outputs: int, distinct: float, images: int, capability: int
) -> Predicted:
    """Of a launch that computes `outputs` pixels.

    Args:
        distinct: bytes of operands and result. images: of the batch; blocks of one run together.
        capability: of `effkern.prediction.BY_CAPABILITY`.
    """
    ceilings = BY_CAPABILITY[capability]
    found = predict([facts.work(distinct, distinct / images, ceilings)], distinct, ceilings)
    products = facts.multiply_adds + facts.matrix_instructions
    return Predicted(
        microseconds=float(f"{found.time * 1e6:.4g}"),
        instructions_per_output=float(f"{WARP * facts.instructions / outputs:.4g}"),
        multiply_add_share=round(products / facts.instructions, 3),
    )


def slower(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """The launches of both whose predicted time has become longer than it may, in words.

    Args:
        before, after: what is known of launches, by name; "microseconds" where it was predicted.
    """
    found = []
    for name in sorted(before.keys() & after.keys()):
        was, now = before[name].get("microseconds"), after[name].get("microseconds")
        if was is not None and now is not None and now > was * (1 + MOST_GROWTH):
            most = was * (1 + MOST_GROWTH)
            found.append(f"{name}: predicted time: wanted at most {most:.4g} us, got {now:.4g}")
    return found
