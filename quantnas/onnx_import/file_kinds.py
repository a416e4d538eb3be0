"""Names the kind of a file that is called .onnx but holds something else, for error messages."""

from pathlib import Path

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


def other_kind(path: Path) -> tuple[str, str] | None:
    """Kind of a file that is no ONNX file, and what helps; None for all other files."""
    with path.open("rb") as file:
        begin = file.read(READ).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((kind[1:] for kind in KINDS if begin.startswith(kind[0])), None)
