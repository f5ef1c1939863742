"""The error bound: twice the error of PyTorch's own operator, plus one rounding unit.

Errors are measured against float64 and in *rounding units*, which differ from element to element:

    unit[i] = eps(output dtype) * |reference[i]| + eps(accumulation dtype) * scale[i]

The first term is one unit in the last place of the output. The second is one of the accumulator at
the element's accumulation scale: `scale[i]` is the sum of the magnitudes of the terms that were
added up, which is what every error bound of a summation is proportional to, in whatever order it
runs. It matters where terms cancel and the output is much smaller than they are. With

    error(result) = max_i |result[i] - reference[i]| / unit[i]

a result passes if error(actual) <= 2 * error(torch) + 1.

Of 16-bit results torch's error counts as one unit at most: a chain of torch's operators rounds to
16 bits in between, and loses what would allow anything; effkern promises to round once.

Element by element the comparison would be unsound, because torch's error is zero in some of them by
chance. With one absolute bound for the whole tensor, a channel of large values would hide errors in
a channel of small ones. In rounding units neither happens.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Half precision is accumulated in float32.
_ACCUMULATION = {
    torch.float64: torch.float64,
    torch.float32: torch.float32,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
}

_TORCH_ERROR_LIMIT = {torch.float16: 1.0, torch.bfloat16: 1.0}


def _to_numpy(value: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", torch.float64).numpy()
    return value


def rounding_units(
    reference: Tensor | np.ndarray,
    dtype: torch.dtype,
    scale: Tensor | np.ndarray | None = None,
    accumulation_dtype: torch.dtype | None = None,
) -> np.ndarray:
    """One rounding unit for each element of `reference`; see the module's docstring.

    Args:
        reference: the exact result, float64 or wider.
        dtype: of the result that is judged.
        scale: the sum of the magnitudes of each element's terms, shaped like `reference`. Without
            it the largest magnitude in `reference` stands for all.
        accumulation_dtype: of the intermediate results, float32 for 16-bit types unless given.
    """
    reference = _to_numpy(reference)
    magnitude = np.abs(reference)
    if scale is None:
        scale = magnitude.max(initial=0.0)
    output = torch.finfo(dtype)
    accumulation = torch.finfo(accumulation_dtype or _ACCUMULATION[dtype])
    # The last term is the distance of subnormal numbers: nothing rounds to less.
    return output.eps * magnitude + accumulation.eps * _to_numpy(scale) + output.tiny * output.eps


def _errors(value: np.ndarray, reference: np.ndarray, unit: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.abs(value - reference) / unit, nan=np.inf, posinf=np.inf)


def assert_within_bound(
    actual: Tensor,
    torch_result: Tensor,
    reference: Tensor | np.ndarray,
    scale: Tensor | np.ndarray | None = None,
    *,
    accumulation_dtype: torch.dtype | None = None,
    what: str = "result",
) -> None:
    """Asserts that `actual` is as good as the bound in this module's docstring wants.

    Args:
        actual: the result under test.
        torch_result: the result of PyTorch's own operator on the same arguments in the same dtype.
        reference: the result in float64 (or wider, as a numpy array) on the same arguments.
        scale, accumulation_dtype: see `rounding_units`.
        what: names the result in the message.

    Raises:
        AssertionError: shape or dtype differ from torch's, or an element is outside the bound
            (NaN where the reference is a number included).
    """
    shape, dtype = torch_result.shape, torch_result.dtype
    assert actual.shape == shape == reference.shape, (
        f"{what}: wanted shape {tuple(shape)}, got {tuple(actual.shape)}"
    )
    assert actual.dtype == dtype, f"{what}: wanted {dtype}, got {actual.dtype}"
    unit = rounding_units(reference, actual.dtype, scale, accumulation_dtype)
    wanted, got = _to_numpy(reference), _to_numpy(actual)

    # What the dtype cannot hold is infinite in any correct result.
    rounded = _to_numpy(torch.as_tensor(wanted.astype(np.float64)).to(actual.dtype))
    overflow = ~np.isfinite(rounded)
    errors = _errors(_to_numpy(torch_result), wanted, unit)
    errors[overflow | ~np.isfinite(errors)] = 0.0
    torch_error = float(errors.max(initial=0.0))
    torch_error = min(torch_error, _TORCH_ERROR_LIMIT.get(actual.dtype, np.inf))
    bound = 2 * torch_error + 1

    errors = np.where(overflow, np.where(got == rounded, 0.0, np.inf), _errors(got, wanted, unit))
    bad = errors > bound
    if not bad.any():
        return
    where = np.unravel_index(errors.argmax(), errors.shape)
    raise AssertionError(
        f"{what}: element {tuple(map(int, where))} of {tuple(actual.shape)} {actual.dtype}: "
        f"wanted {float(wanted[where]):.9g}, got {float(got[where]):.9g}, which is "
        f"{float(errors[where]):.3g} rounding units of {float(unit[where]):.3g} away; allowed are "
        f"{bound:.3g} (twice torch's largest error of {torch_error:.3g}, plus 1); "
        f"{int(bad.sum())} of {bad.size} elements are outside the bound, the first at "
        f"{tuple(map(int, np.argwhere(bad)[0]))}"
    )
