"""The result of a quantization, as a person reads it."""

from typing import TYPE_CHECKING, Any

from . import console

if TYPE_CHECKING:
    from quantnas.api import Run

BEFORE = "psnr_to_float_before_training"
"""Key of the closeness to the float network before retraining, PSNR in dB."""
NAMED = 8
"""Number of layers left in float that are named."""


def tell(target: "Run") -> None:
    """Print the closeness to the float network, the cost, and PSNR on every set of photographs."""
    result = target.result("quantize")
    assert result is not None
    plain = result["psnr_to_float_plain_rounding"]
    first = "" if plain is None else f"plain rounding {plain:.2f} dB, "
    console.say(
        f"closeness to the float network on validation patches: {first}"
        f"before retraining {result[BEFORE]:.2f} dB, "
        f"now {result['psnr_to_float']:.2f} dB",
        target,
    )
    retrains = target.config.quantize.retrains
    if retrains and result["psnr_to_float"] <= result[BEFORE]:
        console.say("note: retraining came no closer, so the network before it is kept", target)
    if result.get("kept_bits"):
        console.say(f"bits: {result['kept_bits']}", target)
    if result.get("carried"):
        console.say(f"carried: {result['carried']}", target)
    if "reached" in result:
        console.say(_costs(result["reached"]), target)
    if result.get("in_float"):
        console.say(_left(result["in_float"]), target)
    for drop in target.drops:
        console.say(
            f"{drop.name} ({drop.photographs} photographs): bicubic {drop.bicubic:.2f} dB, "
            f"float network {drop.full:.2f}, quantized {drop.quantized:.2f} "
            f"({-drop.drop:+.2f}){_closeness(drop)}",
            target,
        )
        if drop.below_bicubic:
            advice = console.ADVICE[drop.untrained]
            console.say(f"warning: worse than bicubic on {drop.name}; {advice}", target)


def _closeness(drop: Any) -> str:
    """The PSNR to the float network, and the loss by it where bicubic beats that network."""
    if drop.to_float is None:
        return ""
    judged = f", which counts as a loss of {drop.loss:.2f} dB" if drop.untrained else ""
    return f", to the float network {drop.to_float:.2f}{judged}"


def _costs(reached: dict[str, Any]) -> str:
    """The cost of the quantized network, in one line."""
    bits = reached["average_bits"]
    average = "" if bits is None else f", {bits:.2f} bits per weight between the ends"
    return (
        f"reached: {reached['weight_bytes']:,} bytes of packed weights, "
        f"{reached['bitops'] / 1e9:.3f} GBitOps at LR 32x32{average}"
    )


def _left(rows: list[dict[str, Any]]) -> str:
    """The layers that stay in float, and their share of the BitOps."""
    whole = sum(row["share"] for row in rows)
    costly = sorted(rows, key=lambda row: -row["share"])[:NAMED]
    named = ", ".join(f"{row['name']} ({row['op']}, {row['share']:.1%})" for row in costly)
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return f"in float: {len(rows)} layers, {whole:.1%} of the BitOps: {named}{more}"
