"""What stays where a BatchNorm was folded away."""

from __future__ import annotations

from torch import Tensor, nn


class FoldedBatchNorm(nn.Module):
    """In place of a BatchNorm that :func:`effkern.fold_batch_norm` folded into a convolution.

    Applies what else the module did: timm's BatchNormAct2d has a `drop` and an `act`. Input and
    output have any shape.

    Attributes:
        folded_class: the class of the module that was here.
        convolution: the name of the convolution, as in ``model.named_modules()`` of the model that
            was folded.
    """

    def __init__(self, batch_norm: nn.Module, convolution: str) -> None:
        super().__init__()
        self.folded_class = type(batch_norm)
        self.convolution = convolution
        for name, child in batch_norm.named_children():
            self.add_module(name, child)
        self.train(batch_norm.training)

    def forward(self, input: Tensor) -> Tensor:
        for child in self.children():
            input = child(input)
        return input

    def extra_repr(self) -> str:
        return f"folded into {self.convolution}"
