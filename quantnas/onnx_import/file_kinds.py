"""Tells what a file holds that cannot be read as a network, for the same words in all errors."""

from pathlib import Path

from quantnas.errors import DataError

READ = 512
"""Number of bytes at the beginning of a file that tell its kind."""
KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"<!doctype html", "a web page", "Download the file itself, not the page that shows it."),
    (b"<html", "a web page", "Download the file itself, not the page that shows it."),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, which stands for the file",
        "Fetch the file itself, with `git lfs pull` or from the page of the repository.",
    ),
    (b"pk\x03\x04", "a ZIP archive, as torch.save writes it", "Export the network to ONNX."),
    (b"\x80\x02", "a pickle, as torch.save writes it", "Export the network to ONNX."),
    (b"\x89hdf", "an HDF5 file, as Keras writes it", "Convert it to ONNX."),
)
"""(beginning in lower case, kind of file, what helps)."""
CHECKPOINTS = (".pt", ".pth", ".ckpt")
"""Extensions of files that torch.save writes."""


def other_kind(path: Path) -> tuple[str, str] | None:
    """Kind of a file that is no ONNX file, and what helps; None for all other files."""
    with path.open("rb") as file:
        begin = file.read(READ).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((kind[1:] for kind in KINDS if begin.startswith(kind[0])), None)


def require_no_checkpoint(path: Path) -> None:
    """Raise DataError for a file that is named as torch.save names its own."""
    if path.suffix in CHECKPOINTS:
        raise DataError(
            f"{path} is a checkpoint of PyTorch, which holds no network that can be read alone.",
            "Call quantnas.quantize(module) in Python, export the network to ONNX, or save the "
            "weights of a built-in one as safetensors.",
        )
