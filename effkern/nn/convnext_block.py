"""ConvNeXtBlock, in place of timm's ConvNeXtBlock and torchvision's CNBlock."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from effkern.functional import convnext_block


class ConvNeXtBlock(nn.Module):
    """A ConvNeXt or ConvNeXt V2 block, computed by :func:`effkern.functional.convnext_block`.

    Made by :meth:`from_module` only; input and output are (N, C, H, W). Submodules, parameters and
    state_dict keys are those of the source, and so are the results in train and eval mode, the
    random numbers of stochastic depth included.

    Attributes:
        save: what the backward finds of the activations, "minimal" or "all".
    """

    save = "minimal"
    _source_class: type[nn.Module]

    def __init__(self) -> None:
        raise TypeError("effkern.nn.ConvNeXtBlock: wanted a call of ConvNeXtBlock.from_module")

    @classmethod
    def from_module(cls, module: nn.Module) -> ConvNeXtBlock:
        """A block with the parameters, submodules, hooks and training mode of `module`.

        Raises:
            TypeError: `module` is neither timm's ConvNeXtBlock nor torchvision's CNBlock, or a
                submodule of it has a class or hooks that the fused block cannot stand for.
            ValueError: a configuration that it does not compute: a stride, a dilation, a dropout.
        """
        from .convnext_block_sources import share

        return share(module, cls)

    def _sample_scale(self, input: Tensor) -> Tensor | None:
        probability, scale_by_keep = self._drop_path()
        if not self.training or probability == 0:
            return None
        keep = 1 - probability
        factors = input.new_empty(input.shape[0]).bernoulli_(keep)
        return factors.div_(keep) if keep > 0 and scale_by_keep else factors

    def _drop_path(self) -> tuple[float, bool]:
        from .convnext_block_sources import drop_path

        return drop_path(self)

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        from .convnext_block_sources import arguments

        return arguments(self)

    def forward(self, input: Tensor) -> Tensor:
        if not isinstance(input, Tensor):
            # torch.fx traces it.
            return self._source_class.forward(self, input)
        tensors, keywords = self._arguments()
        scale = self._sample_scale(input)
        return convnext_block(input, *tensors, **keywords, sample_scale=scale, save=self.save)

    def reference(self, input: Tensor) -> Tensor:
        """The same computation by the source's forward."""
        return self._source_class.forward(self, input)
