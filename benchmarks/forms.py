"""Times files in their plain and in their quickest form, and as the float network, by turns.

    python benchmarks/forms.py rfdn_small --scale 2 --genotype benchmarks/genotypes/demo_groups.json
    python benchmarks/forms.py rfdn_deploy --channels 48
    python benchmarks/forms.py --file quantnas/assets/models/plain-x2.onnx

A network has random weights and, without a genotype, a 3x3 convolution on every edge that offers
one, at 8 bits. One process, one thread, 128x128 pixels, smallest processor time. Prints bytes and
milliseconds, and fails where the two forms give different outputs.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from files import chosen, priced

from quantnas.architectures import network, registry
from quantnas.config import genotype, search_space
from quantnas.data import image_files, patches
from quantnas.evaluation import float_reference, processor
from quantnas.exporters import convolution_forms, onnx_export, plain_forms
from quantnas.onnx_import.onnx_session import open_session
from quantnas.quantization import post_training

SIDE = 128
ROUNDS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("space", nargs="?")
    parser.add_argument("--file", type=Path, help="an exported file, instead of a space")
    parser.add_argument("--genotype", type=Path)
    parser.add_argument("--channels", type=int, help="instead of the space's")
    parser.add_argument("--scale", type=int, default=4)
    args = parser.parse_args()
    exported = onnx.load(args.file) if args.file else written(args)
    plain = plain_forms.plain(exported)
    forms = {"plain": plain, "quickest": convolution_forms.fast(plain)}
    whole = float_reference.make(plain)
    assert whole is not None
    times = by_turns({**forms, "float": whole})
    print(f"{processor.here().processor}, ONNX Runtime {processor.here().onnxruntime}")
    for name, seconds in times.items():
        size = f"{forms[name].ByteSize():,} bytes, " if name in forms else ""
        print(f"{name}: {size}{seconds * 1e3:.2f} ms, {seconds / times['float']:.2f} of float")
    print(f"quickest of plain: {times['quickest'] / times['plain']:.2f}")


def written(args: argparse.Namespace) -> onnx.ModelProto:
    """The file of a network with random weights."""
    space = search_space.load(args.space, args.scale)
    space = dataclasses.replace(space, channels=args.channels or space.channels)
    found = genotype.load(args.genotype) if args.genotype else chosen(space)
    precision = genotype.searched_precision(found)
    torch.manual_seed(0)
    rounded = network.build(space, found, precision)
    shown = [image_files.read(path)[None, :80, :80] for path in image_files.bundled().held_out[:2]]
    network.initialise(rounded, torch.cat([patches.to_tensor(image) for image in shown]))
    assert {slot.name for slot in registry.slots(space)} == {*precision}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        totals = priced(space, found, precision)
        onnx_export.to_onnx(post_training.freeze(rounded), totals, space.scale, path)
        return onnx.load(path)


def by_turns(models: dict[str, onnx.ModelProto]) -> dict[str, float]:
    """Smallest processor time of each model, seconds; the first two must give the same."""
    runs = {name: open_session(m.SerializeToString(), threads=1) for name, m in models.items()}
    (entry, *_), *_ = (run.get_inputs() for run in runs.values())
    image = np.random.default_rng(0).random((1, 3, SIDE, SIDE), dtype=np.float32)
    first, second, *_ = (run.run(None, {entry.name: image})[0] for run in runs.values())
    assert np.array_equal(first, second)
    times = dict.fromkeys(runs, np.inf)
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.process_time()
            run.run(None, {entry.name: image})
            times[name] = min(times[name], time.process_time() - start)
    return times


if __name__ == "__main__":
    main()
