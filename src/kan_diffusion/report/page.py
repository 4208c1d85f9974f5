"""The one builder of all pages, such as those of studies, explanations and the truth lab.

A page is one HTML file that opens from disk without a network: styles, scripts and figures are
inside. It can be read in full without scripts, and everything written into it is escaped::

    page = Page("Title", "The question.")
    page.section("Results").say("A sentence.").figure(draw, "Caption.", "Alternative.")
    page.write(folder / "page.html")

A table is a frame of texts; a text of several lines is a number with what belongs to it below. What
is ``Markup`` is HTML already, such as :func:`swatch`: a frame keeps it as ``object``.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Self

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from kan_diffusion.errors import KanDiffusionError, one_line
from kan_diffusion.files import write_text
from kan_diffusion.report.clouds import Motion, Panel, clouds
from kan_diffusion.report.figures import Json, inline

_NUMBER = re.compile(r"[−+-]?<? ?[\d.,]+|–|$")


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
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def template(name: str, **values: object) -> Markup:
    """Fills in a template of this package; everything in it is escaped."""
    return Markup(_environment().get_template(name).render(**values))


def swatch(colour: str, text: str) -> Markup:
    """Writes a text with a patch of a colour before it."""
    return Markup('<span class="swatch" style="--own: {}"></span>{}').format(colour, text)


def badge(kind: str, text: str) -> Markup:
    """Writes a text as a badge of one of the kinds that the style sheet knows."""
    return Markup('<span class="badge {}">{}</span>').format(kind, text)


def _fingerprint(script: str) -> str:
    """Names a script as a page's content security policy does: it runs, and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


class Section:
    """A part of a page: a heading and, below it, what was added, in that order.

    Every method that adds something returns the section, except :meth:`section`, which returns the
    part it adds. A section to which nothing was added is left out of the page. Figures that follow
    one another stand side by side where there is room.

    Attributes:
        title: Its heading; none where empty.
        anchor: Its id, to which links lead.
        level: Level of its heading.
    """

    def __init__(self, title: str, level: int, anchors: set[str], drawn: bool) -> None:
        self._anchors = anchors
        self.title = title
        self.anchor = self._new_anchor(title)
        self.level = level
        self._drawn = drawn
        self._blocks: list[Markup | Section] = []

    def __bool__(self) -> bool:
        """Reports whether the section has any content."""
        return any(map(bool, self._blocks))

    def __html__(self) -> str:
        """Gives the section as HTML."""
        return self._rendered("section", self, self.content()) if self else ""

    def content(self) -> Markup:
        """Gives what was added as HTML, without the heading."""
        return Markup("\n").join(block for block in self._blocks if block)

    def section(self, title: str) -> Section:
        """Adds a section below this one."""
        made = Section(title, self.level + 1, self._anchors, self._drawn)
        self._blocks.append(made)
        return made

    def say(self, *sentences: str, kind: str = "") -> Self:
        """Adds a paragraph for each sentence.

        Args:
            *sentences: The sentences.
            kind: ``"answer"`` for the answer that a page begins with, ``"note"`` to explain what
                stands above, ``"flag"`` for what a reader must not miss.
        """
        return self._add("text", [sentence for sentence in sentences if sentence], kind)

    def items(self, items: Sequence[str], kind: str = "", title: str = "") -> Self:
        """Adds a list of a kind: ``"warnings"``, ``"failures"`` or, with badges, ``"verdicts"``."""
        return self._add("items", items, kind, title) if items else self

    def table(self, frame: pd.DataFrame, caption: str, feet: int = 0, fold: str = "") -> Self:
        """Adds a table, sortable where scripts run; nothing if the frame has no rows.

        Args:
            frame: A frame of texts, whose first column names the rows.
            caption: What it holds, for those who cannot see it.
            feet: Number of the last rows that stay in place.
            fold: The title of a fold in which it stands; in the open if empty.
        """
        if not len(frame):
            return self
        records = [list(record) for record in frame.itertuples(index=False)]
        body = len(records) - feet
        words = [
            not all(_NUMBER.match(Markup(row[column]).striptags()) for row in records[:body])
            for column in range(len(frame.columns))
        ]
        words[0] = True
        return self._add("table", list(frame), words, records[:body], records[body:], caption, fold)

    def figure(
        self,
        draw: Callable[[], Figure | Motion | tuple[Sequence[Panel], str]],
        caption: str,
        alternative: str,
        largest: int = 0,
    ) -> Self:
        """Adds a figure; if it cannot be drawn, a line says why.

        Args:
            draw: Draws the figure. Panels, with a sentence on what is seen in them, are one figure
                of clouds, or pictures; motion has a player where scripts run, and a few frames on
                paper and where they do not.
            caption: What to look for, and how it was measured.
            alternative: What it shows, for those who cannot see it.
            largest: Approximate size of pictures, or of a player's data, in bytes.

        Raises:
            KanDiffusionError: A file cannot be read or written.
        """
        if not self._drawn:
            return self
        try:
            shown = draw()
            if isinstance(shown, Motion):
                stills = shown.stills(self._new_anchor(alternative), alternative, largest)
                return self._add("player", shown.content(largest), stills, caption)
            if isinstance(shown, tuple):
                panels, said = shown
                caption = f"{caption} {said}"
                share = largest // len(panels)
                pictures = [(panel.address(-1, share), panel.title) for panel in panels]
                if any(address for address, _ in pictures):
                    return self._add("pictures", pictures, caption)
                shown = clouds(panels, 2 if len(panels) in (1, 2, 4) else 3)
            svg = inline(shown, self._new_anchor(alternative), alternative)
            return self._add("figure", svg, caption)
        except KanDiffusionError:
            raise
        except Exception as error:  # noqa: BLE001  # a failed figure must not cost the page
            reason = one_line(f"{type(error).__name__}: {error}")
            said = f"The figure “{alternative}” could not be drawn ({reason})."
            return self.say(said, kind="flag")

    def formula(self, symbol: str, mathml: str, latex: str, name: str) -> Self:
        """Adds a formula with its LaTeX.

        SymPy's printer, which writes MathML, escapes no names: only symbols of this package may be
        in ``mathml``, the whole equation.
        """
        return self._add("formula", Markup(mathml), f"{symbol} = {latex}", name)

    def facts(self, facts: Mapping[str, str]) -> Self:
        """Adds a list of names with their values."""
        return self._add("facts", list(facts.items())) if facts else self

    def code(self, text: str) -> Self:
        """Adds a command or a piece of code."""
        return self._add("code", text) if text else self

    def template(self, name: str, **values: object) -> Self:
        """Adds a template that is filled in."""
        self._blocks.append(template(name, **values))
        return self

    def _add(self, macro: str, *arguments: object) -> Self:
        self._blocks.append(self._rendered(macro, *arguments))
        return self

    def _rendered(self, macro: str, *arguments: object) -> Markup:
        macros = _environment().get_template("macros.html.j2").module
        return Markup(getattr(macros, macro)(*arguments))

    def _new_anchor(self, text: str) -> str:
        """Makes an id of a text, which no other part of the page has."""
        slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"
        names = chain([slug], (f"{slug}-{number}" for number in count(2)))
        anchor = next(name for name in names if name not in self._anchors)
        self._anchors.add(anchor)
        return anchor


class Page(Section):
    """A page: what is added to it directly is its overview; its sections follow.

    Args:
        title: Its title.
        intro: A sentence below the title.
        script: File of a script that it needs besides those of all pages.
        data: The data that this script reads.
        drawn: Whether it has figures; without, they are left out.
        linked: Whether a bar leads to its sections.
    """

    def __init__(
        self,
        title: str,
        intro: str = "",
        script: str = "",
        data: Json = None,
        drawn: bool = True,
        linked: bool = False,
    ) -> None:
        super().__init__("overview", 1, set(), drawn)
        self.title = title
        self._values = {"intro": intro, "script": script, "data": data, "linked": linked}

    def __html__(self) -> str:
        """Gives the whole page as HTML."""
        sections = [block for block in self._blocks if isinstance(block, Section) and block]
        return template("page.html.j2", page=self, sections=sections, **self._values)

    def write(self, path: Path) -> Path:
        """Writes the page, whole or not at all, and returns its path.

        Raises:
            RunFolderError: The page cannot be written.
        """
        write_text(path, self.__html__())
        return path
