"""Quantization-aware architecture search for image super-resolution.

Each module is a namespace of its own (`quantnas.space`, `quantnas.supernet`, `quantnas.cost`, ...);
nothing is re-exported here, so importing `quantnas` is cheap and loads neither torch nor onnx.
docs/structure.md says which module does what.

The library computes and never prints; `quantnas.cli` (folder `cli/`) talks to people, and
`quantnas.search_spaces` (folder `search_spaces/`) holds the built-in spaces. The lines below let
both names resolve in a checkout, where the folders lie beside this one; see
docs/decisions/0001-packaging-map.md.
"""

from pathlib import Path

__version__ = "0.1.0"

_here = Path(__file__).parent
if not (_here / "cli").is_dir():  # source checkout: cli/ and search_spaces/ lie beside this folder
    __path__.append(str(_here.parent))
