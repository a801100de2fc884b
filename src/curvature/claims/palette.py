"""The colour of every verdict, in the order in which verdicts are listed."""

from typing import NamedTuple


class Colours(NamedTuple):
    """Of a verdict: on a light page, on a dark page (CSS), and in a terminal (a style of rich)."""

    light: str
    dark: str
    terminal: str


PALETTE = {
    "reproduced": Colours("#1a7f37", "#3fb950", "green"),
    "contradicted": Colours("#cf222e", "#f85149", "red"),
    "inconclusive": Colours("#9a6700", "#d29922", "yellow"),
    "not testable": Colours("#8250df", "#bc8cff", "magenta"),
    "not run": Colours("#57606a", "#9198a1", "dim"),
}
ORDER = tuple(PALETTE)
