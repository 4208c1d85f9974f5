"""The one builder of all pages, such as those of studies, explanations and the truth lab.

A page is one HTML file that opens from disk without a network: styles, scripts and figures are
inside. It can be read in full without scripts, and everything written into it is escaped::

    page = Page("Title", "The question.")
    page.section("Results").text("A sentence.").figure(picture, "Caption.", "Alternative.")
    page.write(folder / "page.html")
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Self

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from kan_diffusion.errors import KanDiffusionError, one_line
from kan_diffusion.files import write_text
from kan_diffusion.report.images import Picture, embedded_svg
from kan_diffusion.report.mathematics import formula_svg
from kan_diffusion.report.tables import Anchors, Table

__all__ = ["Json", "Page", "Section"]

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""Data for a page's script."""


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kan_diffusion.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["fingerprint"] = _fingerprint
    return environment


def _fingerprint(script: str) -> str:
    """Names a script as a page's content security policy does: it runs, and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _macro(name: str, *arguments: object) -> Markup:
    """Calls one of the macros that all pages share."""
    return Markup(getattr(_environment().get_template("macros.html.j2").module, name)(*arguments))


class Section:
    """A part of a page: a heading and, below it, what was added, in that order.

    Every method that adds something returns the section, except :meth:`section`, which returns the
    part it adds. A section to which nothing was added is left out of the page.

    Attributes:
        title: Its heading; none where empty.
        anchor: Its id, to which links lead.
        level: Level of its heading, from 2; without a heading, the level of its parts.
        drawn: Whether it has figures; without, they are left out.
    """

    def __init__(
        self, title: str, anchor: str, level: int, anchors: Anchors, drawn: bool = True
    ) -> None:
        self.title = title
        self.anchor = anchor
        self.level = level
        self.anchors = anchors
        self.drawn = drawn
        self._blocks: list[Markup | Section] = []

    def __bool__(self) -> bool:
        """Reports whether the section has any content."""
        return any(map(bool, self._blocks))

    def __html__(self) -> str:
        """Gives the section as HTML."""
        return _macro("section", self, self.content()) if self else ""

    def content(self) -> Markup:
        """Gives what was added as HTML, without the heading."""
        return Markup("\n").join(block for block in self._blocks if block)

    def section(self, title: str, *words: str) -> Section:
        """Adds a section below this one.

        Args:
            title: Its heading.
            *words: The words that make its id; the title if there are none.
        """
        anchor = self.anchors(*(words or (title,)))
        made = Section(title, anchor, self.level + bool(self.title), self.anchors, self.drawn)
        self._blocks.append(made)
        return made

    def text(self, *sentences: str, kind: str = "") -> Self:
        """Adds a paragraph for each sentence.

        Args:
            *sentences: The sentences.
            kind: ``"answer"`` for the answer that a page begins with, ``"note"`` to explain what
                stands above, ``"flag"`` for what a reader must not miss.
        """
        return self._add("text", [sentence for sentence in sentences if sentence], kind)

    def items(self, items: Sequence[str], kind: str = "", title: str = "") -> Self:
        """Adds a list.

        Args:
            items: The items.
            kind: ``"warnings"`` for what must be known first, ``"failures"`` for what went wrong.
            title: The title above it.
        """
        return self._add("items", items, kind, title) if items else self

    def table(self, table: Table | None, narrow: bool = False, plain: bool = False) -> Self:
        """Adds a table, sortable where scripts run.

        Args:
            table: The table; nothing is added when None.
            narrow: Whether it is only as wide as its content.
            plain: Whether its cells are text alone, with little markup because there are thousands.
        """
        return self if table is None else self._add("plain" if plain else "sortable", table, narrow)

    def figure(self, picture: Picture, caption: str, alternative: str) -> Self:
        """Adds a figure.

        Args:
            picture: The figure.
            caption: What to look for, and how it was measured.
            alternative: What it shows, for those who cannot see it.
        """
        return self._add("figure", picture, caption, alternative)

    def player(self, motion: Json, picture: Picture, caption: str, alternative: str) -> Self:
        """Adds a figure that moves where scripts run.

        Args:
            motion: The data that the script of players draws.
            picture: The figure shown without scripts and on paper.
            caption: What to look for, and how it was measured.
            alternative: What it shows, for those who cannot see it.
        """
        return self._add("player", _dumped(motion), picture, caption, alternative)

    def gallery(self, figures: Iterable[tuple[Picture, str, str]]) -> Self:
        """Adds figures side by side, as many as there is room for.

        Args:
            figures: Picture, caption and alternative text of each, drawn as they are taken.
        """
        shown = list(figures) if self.drawn else []
        return self._add("gallery", shown) if shown else self

    def legend(self, colours: Mapping[str, str]) -> Self:
        """Adds a legend of the colours that the figures below share."""
        return self._add("legend", colours)

    @contextmanager
    def keeping_going(self, name: str) -> Iterator[None]:
        """Draws a figure inside the block; if that fails, a line of the page says why.

        Args:
            name: What the figure shows.

        Raises:
            KanDiffusionError: A file cannot be written.
        """
        try:
            yield
        except KanDiffusionError:
            raise
        except Exception as error:  # noqa: BLE001  # a failed figure must not cost the page
            reason = one_line(f"{type(error).__name__}: {error}")
            self.text(f"The figure “{name}” could not be drawn ({reason}).", kind="flag")

    def formula(self, symbol: str, latex: str, name: str) -> Self:
        """Adds a formula as a picture, or as text if it cannot be typeset, with its LaTeX source.

        Args:
            symbol: The symbol left of the equals sign, in LaTeX.
            latex: The formula.
            name: Its name in words.
        """
        svg = formula_svg(symbol, latex)
        picture = None if svg is None else embedded_svg(svg)
        return self._add("formula", picture, f"{symbol} = {latex}", name)

    def facts(self, facts: Mapping[str, str] | Sequence[tuple[str, str]]) -> Self:
        """Adds a list of names with their values."""
        pairs = list(facts.items()) if isinstance(facts, Mapping) else facts
        return self._add("facts", pairs) if pairs else self

    def code(self, text: str) -> Self:
        """Adds a command or a piece of code."""
        return self._add("code", text) if text else self

    def folded(self, title: str, table: Table) -> Self:
        """Adds a table that is hidden until its title is opened."""
        return self._add("folded", title, table)

    def template(self, name: str, **values: object) -> Self:
        """Adds the output of a template.

        Args:
            name: The template's file.
            **values: Its variables.
        """
        self._blocks.append(Markup(_environment().get_template(name).render(**values)))
        return self

    def _add(self, macro: str, *arguments: object) -> Self:
        self._blocks.append(_macro(macro, *arguments))
        return self


class Page(Section):
    """A page: what is added to it directly is its overview; its sections follow.

    Args:
        title: Its title.
        intro: A sentence below the title.
        leaves: Whether scripts show one section at a time, with a bar of links to all.
        script: File of a script that it needs besides those of all pages.
        data: The data that this script draws.
        drawn: Whether it has figures; without, they are left out.
    """

    def __init__(
        self,
        title: str,
        intro: str = "",
        leaves: bool = False,
        script: str = "",
        data: Json = None,
        drawn: bool = True,
    ) -> None:
        anchors = Anchors()
        super().__init__(title, anchors("overview"), 1, anchors, drawn)
        self.intro = intro
        self.leaves = leaves
        self._script = script
        self._data = data
        self._sections: list[Section] = []

    def part(self, title: str, *words: str) -> Section:
        """Adds a section to the overview.

        Args:
            title: Its heading.
            *words: The words that make its id; the title if there are none.
        """
        return super().section(title, *words)

    def section(self, title: str, *words: str) -> Section:
        """Adds a section to the page.

        Args:
            title: Its heading, and its name in the bar.
            *words: The words that make its id; the title if there are none.
        """
        made = self.part(title, *words)
        self._blocks.remove(made)
        self._sections.append(made)
        return made

    def __html__(self) -> str:
        """Gives the whole page as HTML."""
        dumped = _dumped(self._data) if self._script else Markup("")
        return _environment().get_template("page.html.j2").render(
            page=self, sections=[section for section in self._sections if section],
            script=self._script, data=dumped,
        )  # fmt: skip

    def write(self, path: Path) -> Path:
        """Writes the page, whole or not at all.

        Args:
            path: The file to write.

        Returns:
            The path.

        Raises:
            RunFolderError: The page cannot be written.
        """
        write_text(path, self.__html__())
        return path


def _dumped(data: Json) -> Markup:
    """Writes a script's data, escaped so that nothing in it ends the script."""
    return htmlsafe_json_dumps(data, dumps=json.dumps, allow_nan=False, separators=(",", ":"))
