"""The genotype that a search would decide after every epoch, and how good its network is."""

from dataclasses import dataclass, field
from typing import Any

from quantnas.config import genotype
from quantnas.config.genotype import Genotype


@dataclass(frozen=True)
class DecisionCheck:
    """The score of the decided, rounded network with the supernet's weights on held-out patches."""

    epoch: int
    """Number of epochs done."""
    psnr: float
    """PSNR of RGB, dB."""
    bitops: int
    """BitOps at the resolution of the search."""
    genotype: Genotype


@dataclass
class DecisionLog:
    """The checks after every epoch in which the alphas learned."""

    rows: list[DecisionCheck] = field(default_factory=list)

    @property
    def best(self) -> DecisionCheck | None:
        """The check with the best PSNR; None before the first one."""
        return max(self.rows, key=lambda check: check.psnr, default=None)

    def distinct(self, most: int) -> list[Genotype]:
        """Up to `most` different genotypes, the latest first."""
        genotypes: list[Genotype] = []
        for check in reversed(self.rows):
            if check.genotype not in genotypes:
                genotypes.append(check.genotype)
        return genotypes[:most]

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [{**vars(c), "genotype": c.genotype.to_json()} for c in self.rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = [
            DecisionCheck(**{**row, "genotype": genotype.from_json(row["genotype"], "checkpoint")})
            for row in state["rows"]
        ]
