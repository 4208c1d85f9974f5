from html.parser import HTMLParser

_VOID = {"meta", "img", "br", "link", "input", "hr", "source"}


class Page(HTMLParser):
    """A page read back.

    Attributes:
        pictures: What is shown, in words, to the source of its picture.
        loads: Everything an address is given for.
        tables: Caption (its label) to rows, each a list of cells' texts; feet included.
        keys: The same with what a cell is sorted by.
        words: Caption to whether each column holds words.
        trials: Id of a table's row to the anchors of the trials it names.
        empty: Tags and ids of sections and lists that hold no text and no picture.
    """

    def __init__(self, text):
        super().__init__()
        self.images, self.loads, self.links, self.ids, self.text = [], [], [], [], []
        self.pictures, self.tables, self.keys, self.words, self.trials = {}, {}, {}, {}, {}
        self.empty, self._row = [], ""
        self._table, self._cell, self._key, self._open = "", None, None, []
        self.feed(text)
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        if tag == "td" and self._open[-1][0] == "td":
            self.handle_endtag("td")  # which HTML lets one leave out
        attrs = dict(attrs)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "img":
            self.images.append(attrs["src"])
            self.pictures[attrs["alt"]] = attrs["src"]
            for element in self._open:
                element[2] = True
        if attrs.get("href", "").startswith("#"):
            self.links.append(attrs["href"][1:])
            if any(element[0] == "details" for element in self._open):
                self.trials.setdefault(self._row, []).append(attrs["href"][1:])
        else:
            self.loads += [attrs[key] for key in ("src", "href", "data", "srcset") if key in attrs]
        if tag == "table":
            self._table = attrs["aria-label"]
            assert self._table not in self.tables
            self.tables[self._table], self.keys[self._table] = [], []
            self.words[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
            self.keys[self._table].append([])
            self._row = attrs.get("id", "")
        elif tag in ("td", "th"):
            self._cell, self._key = [], attrs.get("data-key")
            if len(self.tables[self._table]) == 1:
                self.words[self._table].append(attrs.get("class") == "text")
        if tag not in _VOID:
            self._open.append([tag, attrs.get("id", ""), False])

    def handle_endtag(self, tag):
        if tag == "tr" and self._open[-1][0] == "td":
            self.handle_endtag("td")
        opened, name, filled = self._open.pop()
        assert opened == tag
        if tag in ("section", "article", "ul", "dl", "figure", "aside", "p", "div") and not filled:
            self.empty.append(f"{tag}#{name}")
        if tag in ("td", "th"):
            text = " ".join(self._cell)
            self.tables[self._table][-1].append(text)
            self.keys[self._table][-1].append(text if self._key is None else self._key)
            self._cell = None

    def handle_data(self, data):
        if data.strip():
            self.text.append(data.strip())
            for element in self._open:
                element[2] = True
            if self._cell is not None:
                self._cell.append(data.strip())

    def row(self, table, name):
        """A table's row by the beginning of its first cell, by the heads."""
        head, *lines = self.tables[table]
        line = next(line for line in lines if line[0].startswith(f"{name} "))
        return dict(zip(head, line, strict=True))

    def values(self, table, name):
        """What the numbers of a row are sorted by, by the heads."""
        head, *lines = self.keys[table]
        line = next(line for line in lines if line[0] == name)
        return {
            key: float(value)
            for key, value, words in zip(head, line, self.words[table], strict=True)
            if not words and value not in ("", "–")
        }
