"""The wiring of a network as torch.fx sees it, for those that walk through it node by node."""

from torch import fx, nn

from .quantizer import ActQuantizer


class Tracer(fx.Tracer):
    """Convolutions and grids are one node each; it looks into everything else."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | ActQuantizer)
