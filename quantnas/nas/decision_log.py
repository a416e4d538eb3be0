"""What a search would decide after every epoch, and how good that is."""

from dataclasses import dataclass, field
from typing import Any

from quantnas.config import genotype
from quantnas.config.genotype import Genotype


@dataclass(frozen=True)
class DecisionCheck:
    """The decided network, with the supernet's weights and rounded, on patches of its own."""

    epoch: int
    """Epochs done."""
    psnr: float
    """RGB, dB."""
    bitops: int
    """At the resolution of the search."""
    genotype: Genotype


@dataclass
class DecisionLog:
    """What was decided after every epoch in which the alphas learned."""

    rows: list[DecisionCheck] = field(default_factory=list)

    @property
    def best(self) -> DecisionCheck | None:
        """The one with the best PSNR."""
        return max(self.rows, key=lambda check: check.psnr, default=None)

    def distinct(self, most: int) -> list[Genotype]:
        """Up to so many different genotypes, the latest first."""
        found: list[Genotype] = []
        for check in reversed(self.rows):
            if check.genotype not in found:
                found.append(check.genotype)
        return found[:most]

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [{**vars(c), "genotype": c.genotype.to_json()} for c in self.rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = [
            DecisionCheck(**{**row, "genotype": genotype.from_json(row["genotype"], "checkpoint")})
            for row in state["rows"]
        ]
