import json

import numpy as np
import pandas as pd
import pytest

from html_page import Page
from kan_diffusion.report.style import shortened
from kan_diffusion.tables.page import column_figure, say_scores, score_texts, write_table_page
from kan_diffusion.tables.scores import SCORES, TableScores
from mixed_tables import people, quick_scores, shuffled

TRAIN, REAL = people(400, 1), people(300, 2)


@pytest.fixture(scope="module")
def loose():
    return quick_scores(REAL, shuffled(TRAIN, 4), train=TRAIN)


def test_the_page_says_and_draws_everything_worst_first(loose, tmp_path):
    path = write_table_page(loose, tmp_path / "tables.html", "people", "Used.")
    page = Page(path.read_text())
    assert loose.scores.index.tolist() == [*SCORES]
    _, *lines = page.tables["Scores"]
    for line, (label, *texts) in zip(lines, score_texts(loose), strict=True):
        assert line[0].startswith(label)
        assert line[1:] == texts
    for key, score in SCORES.items():
        row = loose.scores.loc[key]
        assert score.meaning in path.read_text()
        assert (score.label, score.meaning) == (row["label"], row["meaning"])
        assert json.loads(loose.scores.to_json(orient="index"))[key]["meaning"] == score.meaning
    columns = [line[0] for line in page.tables["All columns"][1:]]
    assert columns == loose.columns["name"].tolist()
    pairs = [tuple(line[:2]) for line in page.tables["The worst pairs"][1:]]
    assert pairs == list(zip(loose.pairs["first"], loose.pairs["second"], strict=True))
    assert len(pairs) == 15
    assert len(page.tables["Usefulness"]) == 1 + 3
    assert sum("Real and synthetic values of" in text for text in page.text) == 6
    said = " ".join(page.text)
    told = "is a promise of privacy", "Used.", "300 real rows", "the 400 training rows"
    for words in (*told, *say_scores(loose)):
        assert words in said
    assert "could not be drawn" not in said
    assert [left.name for left in tmp_path.iterdir()] == ["tables.html"]


def test_the_sentences_tell_good_tables_from_bad_ones_and_from_copies(loose):
    copies = {
        "chance alone may do that",
        "signs of copying",
        "100 % of synthetic rows are training",
    }
    for scores, said in (
        (loose, {"a guess is right in 50 %", "no sign of copying"}),
        (quick_scores(REAL, TRAIN, train=TRAIN), copies),
        (quick_scores(REAL, TRAIN), {"cannot be said without the rows"}),
    ):
        text = " ".join(say_scores(scores))
        assert {words for words in said if words in text} == said


def test_columns_that_tell_or_are_copied_are_said(loose, monkeypatch):
    monkeypatch.setattr(TableScores, "telling", ("income",))
    monkeypatch.setattr(loose, "copied", ("score", "name"))
    said = " ".join(say_scores(loose))
    assert "Columns that give rows away by themselves: income (" in said
    assert "which are nearly unique, in score, name: call such columns identifiers" in said


def test_no_share_of_values_is_beyond_a_hundred_percent():
    random = np.random.default_rng(0)
    for name, cells in {"n": random.random(40) * 30 // 29, "b": random.random(40) < 0.97}.items():
        frame = pd.DataFrame({name: cells, "x": random.normal(size=40)})
        scores = quick_scores(frame, frame[::-1], kinds={name: "category"})
        (axes,) = column_figure(name, *scores.cells[name]).axes
        assert max(axes.get_xlim()) <= 100.5
        assert axes.patches[1].get_data().values.max() <= 100


def test_long_names_lose_their_middle():
    assert shortened("two\nlines", 20) == "two lines"
    assert shortened("a column with a rather long name, number 17", 20) == "a column w…number 17"
