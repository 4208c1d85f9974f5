import json
import re
from html.parser import HTMLParser

_ELSEWHERE = re.compile(r"(?i)https?:(?!//www\.w3\.org)|@import|url\((?!#)|<link|fetch\(|import\(")
_VOID = {"meta", "img", "br", "link", "input", "hr", "source", "line", "rect", "circle", "path"}


class Page(HTMLParser):
    """A page read back, which loads nothing, has no empty part, and links to its own ids alone.

    Attributes:
        figures: What SVGs and pictures show, in words.
        links: Anchors that are linked to.
        ids: All ids.
        text: Texts, in order; without those of scripts and styles.
        tables: Caption (its label) to rows, each a list of cells' texts; feet included.
        words: Caption to whether each column holds words.
        data: What its scripts of JSON hold.
    """

    def __init__(self, text):
        super().__init__()
        self.figures, self.links, self.ids, self.text, self.data = [], [], [], [], []
        self.tables, self.words = {}, {}
        self._table, self._cell, self._open = "", None, []
        self.feed(text)
        assert not self._open, self._open
        assert not _ELSEWHERE.search(text)
        assert len({*self.ids}) == len(self.ids)
        assert {*self.links} <= {*self.ids}

    def handle_starttag(self, tag, attrs):
        if tag in ("td", "tr", "tbody") and self._open[-1][0] == "td":
            self.handle_endtag("td")  # which HTML lets one leave out
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag == "img" or attrs.get("class") in ("chart", "network"):
            self.figures.append(attrs.get("alt", attrs.get("aria-label", "")))
            self._fill()
        if tag == "a":
            self.links.append(attrs["href"][1:])
        else:
            loads = [attrs[key] for key in ("src", "href", "data", "srcset") if key in attrs]
            assert all(load.startswith(("data:image/", "#")) for load in loads), loads
        if tag == "table":
            self._table = attrs["aria-label"]
            assert self._table not in self.tables
            self.tables[self._table], self.words[self._table] = [], []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self._cell = []
            if len(self.tables[self._table]) == 1:
                self.words[self._table].append(attrs.get("class") == "text")
        if tag not in _VOID:
            self._open.append([tag, attrs.get("id", ""), False])
        self._is_data = attrs.get("type") == "application/json"

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag == "tr" and self._open[-1][0] == "td":
            self.handle_endtag("td")
        opened, name, filled = self._open.pop()
        assert opened == tag, (opened, tag)
        assert filled or name or tag not in ("section", "ul", "dl", "figure", "p", "div"), tag
        if tag in ("td", "th"):
            self.tables[self._table][-1].append(" ".join(self._cell))
            self._cell = None

    def handle_data(self, data):
        if data.strip():
            self._fill()
            if self._is_data:
                self.data.append(json.loads(data))
                self._is_data = False
            if not {"script", "style"} & {element[0] for element in self._open}:
                self.text.append(data.strip())
            if self._cell is not None:
                self._cell.append(data.strip())

    def _fill(self):
        for element in self._open:
            element[2] = True

    @property
    def said(self):
        """All text in one line."""
        return " ".join(" ".join(self.text).split())

    def row(self, table, name):
        """A table's row by the beginning of its first cell, by the heads."""
        head, *lines = self.tables[table]
        line = next(line for line in lines if f"{line[0]} ".startswith(f"{name} "))
        return dict(zip(head, line, strict=True))
