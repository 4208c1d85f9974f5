import re

import numpy as np
import pandas as pd
import pytest

from html_page import Page
from kan_diffusion.report import ReportContents, summary_table, trial_table, write_report
from kan_diffusion.report.tables import (
    REAL_ROW,
    format_interval,
    format_number,
    format_seconds,
)
from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.results.statistics import mean_interval
from kan_diffusion.study.results.wording import overall
from synthetic_study import BUDGETS, MODELS, make_contents


@pytest.fixture(scope="module")
def contents():
    made = make_contents(count=60)
    made.trajectories.clear()
    return made


@pytest.fixture(scope="module")
def page(contents, tmp_path_factory):
    path = write_report(contents, tmp_path_factory.mktemp("report"), figures=False)
    return Page(path.read_text())


def test_figures_are_files_and_pictures_in_the_page_and_one_that_fails_costs_itself(tmp_path):
    contents = make_contents(("swiss roll",), ("MLP",), 1, False, 9)
    contents.trajectories.clear()
    contents.corruption.clear()
    contents.originals["swiss roll"] = np.array([["no"], ["points"]])
    text = write_report(contents, tmp_path).read_text()
    page = Page(text)
    kinds = ("forest", "excess-by-level", "loss-swiss-roll", "metrics-swiss-roll")
    files = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert set(files) == {f"{kind}.png" for kind in kinds}
    assert all(content.startswith(b"\x89PNG") for content in files.values())
    assert len(page.pictures) == len(page.images) == len(files)
    assert all(load.startswith("data:image/svg+xml;base64,") for load in page.loads)
    assert text.count("could not be drawn (") == 2  # real points, and samples beside them
    assert "there is no second model to compare" in text
    assert page.empty == []
    assert not [path for path in tmp_path.rglob("*") if "tmp" in path.name]


@pytest.mark.parametrize(("budget", "moving"), [(None, False), (BUDGETS[0], False), (None, True)])
def test_without_figures_there_are_none_and_all_else_is_there(tmp_path, budget, moving):
    made = make_contents(("wine",), ("KAN", "MLP"), 2, count=9, budget=budget, families=True)
    if not moving:
        made.trajectories.clear()
    page = Page(write_report(made, tmp_path, figures=False).read_text())
    assert (page.images, page.loads, page.empty) == ([], [], [])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert set(page.tables) >= {"All trials", "Models, wine"}
    assert set(page.links) <= set(page.ids)


def test_trials_are_all_listed_and_the_failed_one_says_why(page, contents):
    head, *lines = page.tables["All trials"]
    assert len(lines) == len(contents.results.rows)
    (failed,) = [line for line in lines if line[head.index("state")] == "failed"]
    assert (failed[head.index("trial")], failed[head.index("excess")]) == ("dead00", "–")
    text = " ".join(page.text)
    assert "1 trial failed" in text
    assert "the loss became NaN at step 71 <&>; lower the learning rate" in text


def test_the_page_says_what_was_asked_warned_set_and_run(page, contents):
    text = " ".join(page.text)
    for part in (
        contents.title, contents.question, contents.command, contents.warnings[0],
        *contents.environment.values(), *(value for _, value in contents.settings),
        overall(contents.decision),
    ):  # fmt: skip
        assert part in text


def test_rows_alone_make_a_report(tmp_path):
    row = {
        "data": "d", "name": "KAN", "family": "KAN", "kind": "other", "seed": 0, "parameters": 100,
        "oracle": "exact", "excess": 0.1, "error": "out of memory",
    }  # fmt: skip
    results = Results.of(pd.DataFrame([row]))
    page = Page(write_report(ReportContents("Title", "Question?", results), tmp_path).read_text())
    assert (page.images, page.empty) == ([], [])
    assert "d: no model finished half of its seeds." in page.text
    assert any("out of memory" in text for text in page.text)


def test_the_terminals_tables_hold_what_was_measured(contents):
    table = summary_table(contents.results)
    assert list(table["model"]) == [*MODELS, REAL_ROW, *MODELS, REAL_ROW]
    assert list(table["seeds"][:2]) == ["3 of 4", "3"]
    values = contents.results.rows.query("data == 'swiss roll' and name == 'KAN'")["c2st"]
    assert table.iloc[0]["c2st"] == format_interval(mean_interval(values))
    assert table.iloc[3]["excess"] == ""
    large = contents.results.rows.assign(flops=32_612_352.0)
    assert summary_table(Results.of(large)).iloc[0]["flops"] == "32.6 M"
    # Columns that were never measured are left out.
    results = Results.of(contents.results.rows.drop(columns=["c2st", "c2st_real", "flops"]))
    assert "c2st" not in summary_table(results)
    assert "flops" not in trial_table(results)
    assert "excess" in trial_table(results)


def test_numbers_are_written_with_the_digits_that_say_something():
    for value, text in (
        (0.0016349, "0.00163"), (0.5, "0.500"), (0, "0"), (22_080, "22,080"), (123.4, "123"),
        (2.5e-7, "2.50e-07"), (float("nan"), "–"), (None, "–"), (9.996, "10.0"), (999.7, "1,000"),
    ):  # fmt: skip
        assert format_number(value) == text
    for seconds, text in (
        (0.4, "0.40 s"), (31.2, "31 s"), (720, "12 min"), (7_560, "2.1 h"), (float("nan"), "–"),
    ):  # fmt: skip
        assert format_seconds(seconds) == text
    interval = format_interval(mean_interval([0.001, 0.002, 0.003]))
    assert re.fullmatch(r"0\.00200 \[−0\.00048, 0\.00448\]", interval)  # decimals are shared
    assert format_interval(mean_interval([0.002])) == "0.00200"
