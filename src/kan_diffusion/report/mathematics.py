r"""Pictures of LaTeX formulas, made without LaTeX.

Matplotlib can typeset a large part of LaTeX's mathematics; what it does not know, such as cases, is
left as text. Long sums are broken before a ``+`` or ``-`` outside braces and brackets.
"""

from __future__ import annotations

import re

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser

from kan_diffusion.report.images import saved_svg
from kan_diffusion.report.style import INK, report_style

__all__ = ["broken_sum", "formula_svg"]

_LONGEST = 4_000
"""Formulas with more characters are not typeset."""
_WIDEST_LINE = 95
"""Approximate number of visible symbols on a line."""
_FONT_SIZE = 13.0
_AIR = 0.14
"""Inches between two lines."""
_TOKEN = re.compile(r"\\(?:left|right)\s*(?:\\[a-zA-Z]+|\\.|.)|\\[a-zA-Z]+|\\.|.", re.DOTALL)
_REPLACED = (
    (re.compile(r"\\operatorname\{([^{}]*)\}"), r"\\mathrm{\1}"),
    (re.compile(r"\\[dt]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\s+"), " "),
)


def broken_sum(latex: str) -> list[str]:
    """Breaks a sum into several lines.

    Args:
        latex: The sum.

    Returns:
        The lines. Joined, they are the sum.
    """
    parts, depth, part, before = [], 0, "", ""
    for token in _TOKEN.findall(latex):
        if token in "{[(" or (token.startswith("\\left") and not token[5:6].isalpha()):
            depth += 1
        elif token in "}])" or (token.startswith("\\right") and not token[6:7].isalpha()):
            depth -= 1
        if token in "+-" and depth == 0 and before not in ("", "^", "_", "=", "\\cdot"):
            parts.append(part)
            part = ""
        part += token
        before = token if token.strip() else before
    parts.append(part)
    lines = [parts[0]]
    for part in parts[1:]:
        if _seen(lines[-1]) + _seen(part) > _WIDEST_LINE:
            lines.append(part)
        else:
            lines[-1] += part
    return lines


def _seen(latex: str) -> int:
    """Estimates the number of visible symbols of a formula."""
    return len(
        re.sub(r"\\(?:left|right|cdot|frac|,|;)|\\[a-zA-Z]+(?=[^a-zA-Z])|[{}_^\s]", "", latex)
    )


@report_style()
def formula_svg(name: str, latex: str) -> bytes | None:
    r"""Typesets a formula as an SVG picture.

    Args:
        name: The symbol left of the equals sign, in LaTeX, such as ``"s_0"``.
        latex: The formula.

    Returns:
        The picture, the same for the same formula; None if it cannot be typeset.
    """
    if len(latex) > _LONGEST:
        return None
    for pattern, replacement in _REPLACED:
        latex = pattern.sub(replacement, latex)
    lines = broken_sum(latex)
    texts = [f"${name} = {lines[0]}$", *(rf"$\quad {line}$" for line in lines[1:])]
    parser, font = MathTextParser("path"), FontProperties(size=_FONT_SIZE)
    try:
        heights = [parser.parse(text, dpi=72, prop=font).height / 72 + _AIR for text in texts]
    except (ValueError, RecursionError):
        return None
    figure = Figure(figsize=(1.0, 1.0))
    below = 0.0
    for text, height in zip(texts, heights, strict=True):
        figure.text(0.0, -below, text, fontsize=_FONT_SIZE, color=INK, va="top", parse_math=True)
        below += height
    return saved_svg(figure, "path", 0.04, transparent=True)
