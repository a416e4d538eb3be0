"""What a quantization has reached, as a person reads it."""

from typing import Any

from . import console

BEFORE = "psnr_to_float_before_training"
LEFT = 8
"""Layers in float that are named."""


def tell(target: Any) -> None:
    """What was reached, and on which photographs."""
    from quantnas.evaluation import quantization_loss
    from quantnas.runs import run_settings

    result = target.result("quantize")
    plain = result["psnr_to_float_plain_rounding"]
    first = "" if plain is None else f"plain rounding {plain:.2f} dB, "
    console.say(
        f"closeness to the float network on validation patches: {first}"
        f"before retraining {result[BEFORE]:.2f} dB, "
        f"now {result['psnr_to_float']:.2f} dB",
        target,
    )
    retrains = run_settings.written(target).quantize.retrains
    if retrains and result["psnr_to_float"] <= result[BEFORE]:
        console.say("note: retraining came no closer, so the network before it is kept", target)
    if "reached" in result:
        console.say(_costs(result["reached"]), target)
    if result.get("in_float"):
        console.say(_left(result["in_float"]), target)
    for found in quantization_loss.load(target):
        console.say(
            f"{found.name} ({found.photographs} photographs): bicubic {found.bicubic:.2f} dB, "
            f"float network {found.full:.2f}, quantized {found.quantized:.2f} "
            f"({-found.drop:+.2f})",
            target,
        )
        if found.below_bicubic:
            advice = console.ADVICE[found.untrained]
            console.say(f"warning: worse than bicubic on {found.name}; {advice}", target)


def _costs(reached: dict[str, Any]) -> str:
    """Of the quantized network, in one line."""
    bits = reached["average_bits"]
    average = "" if bits is None else f", {bits:.2f} bits per weight between the ends"
    return (
        f"reached: {reached['weight_bytes']:,} bytes of packed weights, "
        f"{reached['bitops'] / 1e9:.3f} GBitOps at LR 32x32{average}"
    )


def _left(rows: list[dict[str, Any]]) -> str:
    """What stays in float, and its share of the BitOps."""
    whole = sum(row["share"] for row in rows)
    costly = sorted(rows, key=lambda row: -row["share"])[:LEFT]
    named = ", ".join(f"{row['name']} ({row['op']}, {row['share']:.1%})" for row in costly)
    more = f" and {len(rows) - LEFT} more" if len(rows) > LEFT else ""
    return f"in float: {len(rows)} layers, {whole:.1%} of the BitOps: {named}{more}"
