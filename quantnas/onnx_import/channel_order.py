"""Steps that make a tensor whose channels come last an image (N, C, H, W), and steps back.

They are named as operators of ONNX, for a graph of torch and for a file alike.
"""

Step = tuple[str, tuple[int, ...]]
"""(Transpose, order of the dimensions), or (Unsqueeze or Squeeze, the dimensions, which are the
last ones)."""

CHANNELS_SECOND: dict[int, tuple[Step, ...]] = {
    2: (("Unsqueeze", (2, 3)),),
    3: (("Transpose", (0, 2, 1)), ("Unsqueeze", (3,))),
    4: (("Transpose", (0, 3, 1, 2)),),
}
"""Rank of a tensor whose channels come last -> steps that make it an image (N, C, H, W)."""
CHANNELS_LAST: dict[int, tuple[Step, ...]] = {
    2: (("Squeeze", (2, 3)),),
    3: (("Squeeze", (3,)), ("Transpose", (0, 2, 1))),
    4: (("Transpose", (0, 2, 3, 1)),),
}
"""Rank of a tensor -> steps back from an image."""
