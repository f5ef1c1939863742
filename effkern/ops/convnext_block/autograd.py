"""convnext_block on CPU: the pixels in chunks, forward and backward.

With x the input, n the normalised convolution, h = fc1(n), a = activation(h), s the factors of the
samples and d the gradient of the output, G = (s d)^T a gives three gradients at once:

    grad fc2_weight = gamma * G      grad fc2_bias = gamma * sum(s d)
    grad gamma      = sum over D of fc2_weight * G, + fc2_bias * sum(s d)

so that the block's branch before layer scale is neither kept nor computed again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...registry import BACKENDS
from ..depthwise_conv2d import eager, fallback
from ..depthwise_conv2d_layer_norm.autograd import LEAN, LEAN_BACKWARD
from ..pointwise import as_image, pointwise_into

_CPU = BACKENDS["cpu"]
_HALF = (torch.float16, torch.bfloat16)
# Bytes of the activations of a chunk, and pixels that a matrix product wants at least.
_CHUNK_BYTES = 1 << 20
_MIN_PIXELS = 512


class Forward(NamedTuple):
    """The output, what LayerNorm gave, and the activations if they were asked for."""

    output: Tensor
    normalized: Tensor
    mean: Tensor
    rstd: Tensor
    hidden: Tensor | None
    activated: Tensor | None


def _chunks(pixels: int, hidden: int, dtype: torch.dtype):
    """Slices of the pixels; they depend on the problem alone."""
    step = max(_MIN_PIXELS, _CHUNK_BYTES // (hidden * dtype.itemsize))
    return [slice(i, min(i + step, pixels)) for i in range(0, pixels, step)]


def _pixels(tensor: Tensor) -> Tensor:
    """(N, C, H, W) as (N * H * W, C); a view if it is channels_last."""
    return tensor.permute(0, 2, 3, 1).reshape(-1, tensor.shape[1])


def _image(pixels: Tensor, like: Tensor) -> Tensor:
    batch, channels, height, width = like.shape
    return pixels.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    if bias is None:
        return torch.mm(input, weight.t(), out=out)
    return torch.addmm(bias, input, weight.t(), out=out)


def _per_pixel(scale: Tensor, like: Tensor) -> Tensor:
    return scale.repeat_interleave(like.shape[2] * like.shape[3])[:, None]


def forward(tensors, eps: float, pads, activation: int, keep: bool | None) -> Forward:
    """`keep` says whether the activations are."""
    x, w, b, nw, nb, w1, b1, w2, b2, gamma, scale = tensors
    x = x.contiguous(memory_format=torch.channels_last)
    normalized, mean, rstd = LEAN(x, w, b, nw, nb, eps, *pads)
    source, residual = _pixels(normalized), _pixels(x)
    count, size = source.shape[0], w1.shape[0]
    output = torch.empty_like(residual, memory_format=torch.contiguous_format)
    shift = b2 if b2 is None or gamma is None else b2 * gamma
    rows = None if scale is None else _per_pixel(scale, x)
    if rows is not None and gamma is not None:
        rows = rows * gamma
    chunks = _chunks(count, size, x.dtype)
    longest = chunks[0].stop if chunks else 0
    hidden = x.new_empty((count if keep else longest, size))
    activated = []
    for chunk in chunks:
        out = output[chunk]
        if keep:
            a = fallback.activate(_linear(source[chunk], w1, b1, hidden[chunk]), activation)
            activated.append(a)
        else:
            a = hidden[: chunk.stop - chunk.start]
            pointwise_into(as_image(a), as_image(source[chunk]), w1, b1, activation=activation)
        if rows is None:
            added = as_image(residual[chunk])
            pointwise_into(as_image(out), as_image(a), w2, shift, scale=gamma, residual=added)
        else:
            o = torch.nn.functional.linear(a, w2, b2)
            torch.addcmul(residual[chunk], o, rows[chunk], out=out)
    kept = torch.cat(activated) if keep and activated else None
    return Forward(_image(output, x), normalized, mean, rstd, hidden if keep else None, kept)


class Block(torch.autograd.Function):
    """The block in eager mode."""

    @staticmethod
    def forward(ctx: Any, *inputs):
        *tensors, eps, pads, activation, keep = inputs
        results = forward(tensors, eps, pads, activation, keep)
        ctx.arguments = eps, pads, activation
        kept = (results.normalized, results.hidden, results.activated) if keep else (None,) * 3
        ctx.save_for_backward(*tensors, results.mean, results.rstd, *kept)
        return results.output

    @staticmethod
    def backward(ctx: Any, grad):
        *saved, mean, rstd, normalized, hidden, activated = ctx.saved_tensors
        tensors = tuple(saved)
        needs = ctx.needs_input_grad[:10]
        if torch.is_grad_enabled():
            gradients = _differentiable(grad, tensors, needs, *ctx.arguments)
        else:
            kept = normalized, hidden, activated
            gradients = _gradients(grad, tensors, mean, rstd, kept, needs, *ctx.arguments)
        return *gradients, *(None,) * 5


def _differentiable(grad, tensors, needs, eps, pads, activation):
    """Through the composition, for the double backward."""
    from . import compose

    # Views, so that a saved tensor that depends on another one is not followed into it.
    leaves: list[Any] = [None if t is None else t.view_as(t) for t in tensors]
    output = compose((*leaves[:10], None, None, leaves[10]), eps, pads, activation)
    wanted = [t for t, needed in zip(leaves, needs, strict=False) if needed]
    grads = iter(torch.autograd.grad(output, wanted, grad, create_graph=True, allow_unused=True))
    return tuple(next(grads) if needed else None for needed in needs)


def _gradients(grad, tensors, mean, rstd, kept, needs, eps, pads, activation):
    x, w, b, nw, nb, w1, b1, w2, b2, gamma, scale = tensors
    normalized, hidden, activated = kept
    x = x.contiguous(memory_format=torch.channels_last)
    if normalized is None:
        normalized = LEAN(x, w, b, nw, nb, eps, *pads)[0]
    source, d = _pixels(normalized), _pixels(grad)
    if scale is not None:
        d = d * _per_pixel(scale, x)
    count, size = source.shape[0], w1.shape[0]
    chunks = _chunks(count, size, x.dtype)
    if x.dtype in _HALF or len(chunks) < 2:
        # Sums of chunks would be rounded to 16 bits each.
        chunks = [slice(0, count)]
    d_scaled = d if gamma is None else d * gamma
    product, grad_w1, grad_b1 = torch.empty_like(w2), torch.empty_like(w1), w1.new_zeros(size)
    grad_source = torch.empty_like(source)
    for chunk in chunks:
        if hidden is None:
            buffer = x.new_empty((chunk.stop - chunk.start, size))
            h = _linear(source[chunk], w1, b1, buffer)
        else:
            h = hidden[chunk]
        a = fallback.activate(h, activation) if activated is None else activated[chunk]
        grad_h = torch.mm(d_scaled[chunk], w2)
        if activation:
            grad_h = fallback.activation_backward(grad_h, h, activation)
        # Nothing is read of what the first chunk writes.
        beta = 1 if chunk.start else 0
        product.addmm_(d[chunk].t(), a, beta=beta)
        grad_w1.addmm_(grad_h.t(), source[chunk], beta=beta)
        grad_b1 += grad_h.sum(0)
        torch.mm(grad_h, w1, out=grad_source[chunk])
    total = d.sum(0)
    grad_w2, grad_b2, grad_gamma = product, total, None
    if gamma is not None:
        wide = fallback.accumulation_dtype(x.dtype)
        grad_gamma = torch.linalg.vecdot(w2.to(wide), product.to(wide))
        if b2 is not None:
            grad_gamma = grad_gamma + b2.to(wide) * total.to(wide)
        grad_gamma = grad_gamma.to(gamma.dtype)
        grad_w2, grad_b2 = product.mul_(gamma[:, None]), total * gamma
    grad_z, grad_nw, grad_nb = LEAN_BACKWARD(_image(grad_source, x), x, w, b, nw, mean, rstd, *pads)
    grad_x, grad_w, grad_b = eager.backward(
        grad_z, x, w, (1, 1, *pads, 1, 1), (needs[0], needs[1], b is not None and needs[2]), _CPU
    )
    if needs[0]:
        grad_x = grad_x + grad
    results = (
        grad_x, grad_w, grad_b, grad_nw, grad_nb, grad_w1, grad_b1, grad_w2, grad_b2, grad_gamma
    )  # fmt: skip
    return tuple(g if needed else None for g, needed in zip(results, needs, strict=True))
