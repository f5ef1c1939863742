"""Thinned parameters: every value of each still occurs, and only size decides."""

from __future__ import annotations

from itertools import combinations, product
from types import SimpleNamespace

from effkern.testing.problems import DEPTHWISE_CONV2D_CASES, LAYOUTS
from effkern.testing.problems import DepthwiseConv2dCase as Case
from effkern.testing.thinning import MOST_TILE_TAPS, thinned, tile_taps

DTYPES = ("float32", "float64", "float16", "bfloat16")


def items(test="test_forward"):
    for case, layout, dtype in product(DEPTHWISE_CONV2D_CASES, LAYOUTS, DTYPES):
        params = {"case": case, "layout": layout, "dtype": dtype}
        yield SimpleNamespace(
            path="tests/ops/test.py",
            originalname=test,
            nodeid=f"{test}[{case.id}-{layout}-{dtype}]",
            callspec=SimpleNamespace(params=params),
        )


def values(kept, name):
    return {item.callspec.params[name] for item in kept}


def test_every_value_occurs():
    everything = list(items())
    kept, dropped = thinned(everything)
    assert len(kept) + len(dropped) == len(everything)
    assert len(kept) < 2 * len(DEPTHWISE_CONV2D_CASES)
    small = {case for case in DEPTHWISE_CONV2D_CASES if tile_taps(case) <= MOST_TILE_TAPS}
    assert values(kept, "case") == small
    assert values(kept, "layout") == set(LAYOUTS)
    assert values(kept, "dtype") == set(DTYPES)


def test_every_pair_of_values_occurs():
    everything = list(items())
    kept, dropped = thinned(everything, pairs=True)
    assert len(kept) + len(dropped) == len(everything)
    assert len(kept) < 0.6 * len(everything)
    for names in combinations(("case", "layout", "dtype"), 2):
        found, wanted = (
            {tuple(item.callspec.params[name] for name in names) for item in some}
            for some in (kept, everything)
        )
        assert found == wanted


def test_each_test_is_thinned_by_itself():
    kept, _ = thinned([*items("test_forward"), *items("test_gradients")])
    for name in ("test_forward", "test_gradients"):
        assert values([i for i in kept if i.originalname == name], "layout") == set(LAYOUTS)


def test_the_choice_does_not_change():
    names = [[item.nodeid for item in thinned(list(items()))[0]] for _ in range(2)]
    assert names[0] == names[1]


def test_size_counts_tiles_and_taps():
    assert tile_taps(Case(1, 1, 4, 4)) == 9
    assert tile_taps(Case(2, 1, 4, 4)) == 2 * 9
    assert tile_taps(Case(1, 33, 8, 65, kernel=(5, 5), padding=2)) == 2 * 2 * 3 * 25
    left_out = [case for case in DEPTHWISE_CONV2D_CASES if tile_taps(case) > MOST_TILE_TAPS]
    # Their classes: kernels of many chunks of rows, which tests/triton has small ones of.
    assert len(left_out) <= 7 and all(max(case.kernel) >= 10 for case in left_out)
