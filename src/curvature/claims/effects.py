"""The one wording of a part's numbers, for console, Markdown and HTML alike."""

import math

from curvature.claims.verdicts import PartVerdict

HEADING = "our effect [95 % interval], or worst value (limit; range over seeds)"
WORST = ("bound", "excess")


def effect_text(part: PartVerdict) -> str:
    """The effect in words, e.g. ``0.1 [0.05, 0.15]`` or ``2.9e-14 (at most 1e-12; 5 seeds: 1e-14 to 2.9e-14)``."""
    return " ".join(effect_pieces(part))


def effect_pieces(part: PartVerdict) -> list[str]:
    """:func:`effect_text` in pieces within which no line is broken; an em dash if there is no effect yet."""
    effect = part.effect
    if effect is None:
        return ["—"]
    if part.kind in WORST:
        return _worst(part, effect.value, effect.low, effect.n)
    value = f"{effect.value:.3g}"
    if part.kind == "best":
        return [value, "(at least 0;", f"{effect.n} runs)"]
    least = part.threshold[0] if part.kind in ("not_below", "tuned") and part.threshold else None
    pieces = [value if least is None else shown(effect.value, least)]
    if math.isfinite(effect.low) and math.isfinite(effect.high):
        pieces.append(f"[{effect.low:.3g}, {effect.high:.3g}]")
    if least is not None:
        pieces.append(f"(at least {shown(least, effect.value)})")
    return pieces


def part_text(part: PartVerdict) -> str:
    """Name, effect and verdict of a part, which says if it does not decide."""
    role = "informative, " if part.informative else ""
    return f"{part.name}: {effect_text(part)} ({role}{part.verdict})"


def shown(number: float, limit: float, digits: int = 3) -> str:
    """``number`` with so many digits, and more where it would seem to lie on the other side of ``limit``."""
    for more in range(digits, 13):
        text = f"{number:.{more}g}"
        if (float(text) <= limit) == (number <= limit) and (float(text) >= limit) == (number >= limit):
            return text
    return text


def _worst(part: PartVerdict, worst: float, least: float, seeds: int) -> list[str]:
    (limit,) = part.threshold
    low, high = f"{least:.3g}", shown(worst, limit)
    pieces = ["value minus limit", high] if part.kind == "excess" else [high]
    pieces.append(f"(at most {limit:.10g};")
    if seeds == 1:
        return [*pieces, "1 seed)"]
    if least == worst:
        return [*pieces, "the same in", f"{seeds} seeds)"]
    return [*pieces, f"{seeds} seeds:", f"{low} to {high})"]
