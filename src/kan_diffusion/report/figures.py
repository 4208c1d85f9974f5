"""Figures as they stand in a page, in a notebook and in a file.

A figure is drawn once. In a page it is an SVG inside the HTML: its ink, its lines and its ground
are the page's own colours, so that it is right in the light, in the dark and on paper. Clouds of
points inside it are pixels.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from kan_diffusion.report.style import GRID, INK, MUTED, PALE, report_style

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""Data for a page's script."""

_DPI, _PNG_DPI, _CSS_DPI = 144, 192, 96
_PAGE = {INK: "ink", MUTED: "muted", GRID: "line", PALE: "pale", "#ffffff": "card"}
"""Names of the page's colours."""
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_ROOT = re.compile(r"<svg [^>]*viewBox=\"0 0 ([\d.]+) ([\d.]+)\"[^>]*>")


def inline(figure: Figure, name: str, alternative: str) -> Markup:
    """Draws a figure as SVG for the inside of a page.

    Args:
        figure: The figure.
        name: A name that no other figure of the page has: its ids are made from it.
        alternative: What it shows, for those who cannot see it.

    Returns:
        The SVG, in which text stays text. The same figure gives the same SVG.
    """
    file = io.StringIO()
    with report_style(), rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", dpi=_DPI, transparent=True, metadata=_NO_METADATA)
    svg = file.getvalue()
    # Numbered ids occur in every figure, images are no link's target, and a style sheet would hold
    # for the whole page.
    svg = re.sub(r" id=\"(?:[A-Za-z.2]+_\d+|image[0-9a-f]+)\"", "", svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r" ?transform=\"rotate\(-0 [^\"]*\)\"", "", svg).replace("xlink:href", "href")
    svg = re.sub(r"\n\s*", "\n", svg)
    own: dict[str, str] = {}

    def named(colour: re.Match[str]) -> str:
        known = _PAGE.get(colour[0])
        return f"var(--{known or own.setdefault(colour[0], f'c{len(own)}')})"

    def recoloured(style: re.Match[str]) -> str:
        return re.sub(r"#[0-9a-f]{6}\b", named, style[0])

    svg = re.sub(r"(?:style|fill|stroke)=\"[^\"]*\"", recoloured, svg)
    root = _ROOT.search(svg)
    assert root is not None
    colours = "; ".join(
        f"--{key}: color-mix(in srgb, {colour}, #fff var(--lift))" for colour, key in own.items()
    )
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" width="{}" role="img" style="{}">')
    width = round(float(root[1]) * _CSS_DPI / 72)
    title = Markup("<title>{}</title>").format(alternative)
    return head.format(root[1], root[2], width, colours) + title + Markup(svg[root.end() :])


def png(figure: Figure) -> bytes:
    """Draws a figure as PNG on white, twice as sharp as a screen; the same each time."""
    file = io.BytesIO()
    with report_style():
        figure.savefig(file, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    few = Image.open(file).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    file = io.BytesIO()
    few.save(file, format="PNG")
    return file.getvalue()
