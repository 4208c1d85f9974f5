"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Writes a table; lines within a cell become one."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line).replace(chr(10), ' ')} |\n" for line in lines)
