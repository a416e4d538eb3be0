"""Checks that the oldest supported ONNX Runtime computes the same from an exported file.

Every version is installed into an environment of its own, from the package registry.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from quantnas.architectures import cost, network, registry
from quantnas.config.genotype import uniform_precision
from quantnas.config.run_config import ExportConfig
from quantnas.exporters import onnx_export
from quantnas.quantization import post_training

pytestmark = pytest.mark.slow

OLDEST = {
    "1.16.3": [(8, False), (8, True), (4, True), (3, True), (2, True)],
    "1.23.2": [(4, False), (3, False)],
    "1.24.1": [(2, False)],
}
"""Version of ONNX Runtime -> (weight bits, whether in the form for old runtimes)."""
PROGRAM = """
import sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
(entry,) = session.get_inputs()
(found,) = session.run(None, {entry.name: numpy.load(sys.argv[2])})
numpy.save(sys.argv[3], found)
print(onnxruntime.__version__)
"""


@pytest.fixture(scope="module", params=list(OLDEST))
def old(request, tmp_path_factory) -> tuple[str, Path]:
    """(version, Python interpreter of an environment with that ONNX Runtime)."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    numpy = "numpy<2" if request.param == "1.16.3" else "numpy"
    pip = [str(python), "-m", "pip", "install", "--quiet", f"onnxruntime=={request.param}", numpy]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"cannot install ONNX Runtime {request.param}: {done.stderr[-300:]}")
    return request.param, python


@pytest.mark.parametrize("name", ["tiny", "imdn"])
def test_the_oldest_promised_runtime_gives_what_the_newest_gives(
    old, small, random_genotype, pixels, tmp_path, name
):
    (version, python), space = old, small[name]
    slots, genotype = registry.slots(space), random_genotype(small[name], 4)
    low = pixels(1, 16, 21, 5).numpy()
    for bits, compat in OLDEST[version]:
        precision = uniform_precision(slots, bits)
        net = network.build(space, genotype, precision)
        network.initialise(net, pixels(2, 16, 16, 5))
        totals = cost.total(cost.layers(slots, genotype, precision, space.scale), space.scale)
        for uint8_io in (False, True):
            image = np.round(low * 255).astype(np.uint8) if uint8_io else low
            form, path = ExportConfig(compat=compat, uint8_io=uint8_io), tmp_path / "m.onnx"
            onnx_export.to_onnx(post_training.freeze(net), totals, space.scale, path, form)
            found = run(python, path, image, version)
            session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            assert np.array_equal(found, session.run(None, {"lr": image})[0])
            assert found.std() > (5 if uint8_io else 0.02)


def run(python: Path, model: Path, image: np.ndarray, version: str) -> np.ndarray:
    """Output for the image, computed by the other interpreter."""
    source, result = model.with_name("given.npy"), model.with_name("made.npy")
    np.save(source, image)
    command = [str(python), "-c", PROGRAM, str(model), str(source), str(result)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [version]
    return np.load(result)
