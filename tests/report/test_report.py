"""The page of a small study, its figures' files, and the tables of the terminal."""

import base64
import re
from dataclasses import replace

import pandas as pd
import pytest

from html_page import Page, leave_files_empty, write_quickly
from kan_diffusion.report import ReportContents, summary_table, trial_table, write_report
from kan_diffusion.report.tables import (
    REAL_ROW,
    format_half_width,
    format_interval,
    format_number,
    format_seconds,
)
from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.results.statistics import mean_interval
from kan_diffusion.study.results.wording import overall
from synthetic_study import MODELS, make_contents


@pytest.fixture(scope="module")
def contents():
    made = make_contents(count=60)
    kept = ("swiss roll", "KAN"), ("checkerboard", "MLP")
    made.trajectories = {key: made.trajectories[key] for key in kept}
    return made


@pytest.fixture(scope="module")
def written(contents, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        leave_files_empty(patch)
        return write_report(contents, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(written):
    return Page(written.read_text())


def test_every_figure_is_a_file_and_a_picture_in_the_page(page, written, contents):
    files = {path.name for path in (written.parent / "figures").iterdir()}
    kinds = ("samples", "forest", "excess-by-level", "loss", "metrics", "data", "corruption")
    expected = {f"{kind}-{data}.png" for kind in kinds for data in ("swiss-roll", "checkerboard")}
    expected |= {"differences.png", "lead.png"}  # over the two
    expected |= {"reverse-swiss-roll-kan.png", "reverse-checkerboard-mlp.png"}
    assert files == expected
    moving = ("From noise to samples", "What training changes")
    assert {f"{title}, {data}" for title in moving for data in contents.data_names()} <= set(
        page.pictures
    )
    assert len(page.pictures) == len(page.images) == len(files) + 4
    charts = [image for image in page.images if image.startswith("data:image/svg+xml;base64,")]
    assert len(charts) >= 9
    assert all(load.startswith("data:image/") for load in page.loads)
    assert set(page.links) <= set(page.ids)
    assert page.empty == []
    assert written.stat().st_size < 2e6
    assert not [path for path in written.parent.rglob("*") if "tmp" in path.name]


def test_the_tables_of_the_page_hold_the_means_of_the_rows(page, contents):
    for data in contents.data_names():
        of_data = contents.results.rows[contents.results.rows["data"] == data]
        for name in MODELS:
            chosen = of_data[of_data["name"] == name]
            line = page.row(f"Models, {data}", name)
            excess = format_half_width(mean_interval(chosen["excess"]))
            assert line["excess"] == excess.replace("\n", " ")
            assert line["parameters"] == f"{MODELS[name][1]:,}"
        last = page.tables[f"Models, {data}"][-1]
        head = page.tables[f"Models, {data}"][0]
        assert last[0] == REAL_ROW
        assert last[head.index("D²")] == format_number(of_data["energy_real"].mean())


def test_trials_are_all_listed_and_the_failed_one_says_why(page, contents):
    head, *lines = page.tables["All trials"]
    assert len(lines) == len(contents.results.rows)
    failed = [line for line in lines if line[head.index("state")] == "failed"]
    assert [line[head.index("trial")] for line in failed] == ["dead00"]
    assert failed[0][head.index("excess")] == "–"
    assert any(
        "the loss became NaN at step 71 <&>; lower the learning rate" in t for t in page.text
    )
    assert any(t.startswith("1 trial failed") for t in page.text)


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
    path = write_report(ReportContents("Title", "Question?", results), tmp_path)
    page = Page(path.read_text())
    assert page.images == []
    assert page.empty == []
    assert "d: no model finished half of its seeds." in page.text
    assert any("out of memory" in text for text in page.text)


def test_an_estimated_oracle_is_not_called_exact_and_a_process_is_said(tmp_path):
    made = make_contents(("swiss roll",), ("KAN", "MLP"), 2, False, 9)
    rows = made.results.rows.assign(oracle="estimated")
    made.results = Results.of(rows)
    page = Page(write_quickly(made, tmp_path).read_text())
    (oracle,) = [line for line in page.tables["Models, swiss roll"] if "oracle" in line[0]]
    assert oracle[0] == "estimated oracle"
    text = " ".join(page.text)
    assert "loss of the estimated oracle" in text
    assert "exact oracle" not in text
    assert "swiss roll, forward process: " in text

    several = [rows.assign(process=name) for name in ("cosine", "flow")]
    again = replace(made, results=Results.of(pd.concat(several)))
    text = write_quickly(again, tmp_path).read_text()
    assert "swiss roll, forward process (cosine): " in text


def test_one_seed_of_one_model_makes_a_report(tmp_path):
    contents = make_contents(("swiss roll",), ("MLP",), num_seeds=1, failed=False, count=9)
    for points in (contents.trajectories, contents.corruption, contents.originals):
        points.clear()
    text = write_report(contents, tmp_path).read_text()
    assert "there is no second model to compare" in text
    assert "could not be drawn" not in text
    files = list((tmp_path / "figures").iterdir())
    assert len(files) == 5
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_names_of_mathematics_and_in_any_script_are_drawn_as_they_are_written(
    tmp_path, monkeypatch
):
    made = make_contents(("wine",), ("KAN", "MLP"), 2, count=9)
    names = {"wine": r"$\frac$ a$b", "KAN": r"$\unknown{$", "MLP": "$x$ 质量 😀"}
    rows = made.results.rows.replace(names)
    leave_files_empty(monkeypatch)
    page = write_report(ReportContents("$", "q", Results.of(rows)), tmp_path).read_text()
    assert "could not be drawn" not in page
    drawn = [
        base64.b64decode(found).decode()
        for found in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    ]
    assert any(r"$\unknown{$" in svg for svg in drawn)
    assert any("$x$ 质量 😀" in svg for svg in drawn)


def test_a_figure_that_fails_costs_the_figure(contents, tmp_path):
    def fail(*_):
        raise ValueError("no such glyph\n  ^")

    still = dict.fromkeys(("process_motion", "training_motion"), lambda *_: None)
    page = Page(write_quickly(contents, tmp_path, forest_figure=fail, **still).read_text())
    lost = [line for line in page.text if "could not be drawn" in line]
    assert len(lost) == len(contents.results.settings())
    assert "(ValueError: no such glyph ^)" in lost[0]
    assert not list((tmp_path / "figures").glob("forest*"))
    assert list((tmp_path / "figures").glob("metrics*"))


def test_a_report_written_again_replaces_the_old_one(tmp_path):
    contents = ReportContents(
        "One", "q", make_contents(("swiss roll",), ("MLP",), 2, False, 9).results
    )
    first = write_quickly(contents, tmp_path).read_bytes()
    assert write_quickly(contents, tmp_path).read_bytes() == first
    contents.title = "Another"
    assert b"<h1>Another</h1>" in write_quickly(contents, tmp_path).read_bytes()


# --- tables and sentences ---------------------------------------------------------------------


def test_summary_table(contents):
    table = summary_table(contents.results)
    assert list(table["model"]) == [*MODELS, REAL_ROW, *MODELS, REAL_ROW]
    first = table.iloc[0]
    assert first["seeds"] == "3 of 4"
    assert table.iloc[1]["seeds"] == "3"
    values = contents.results.rows.query("data == 'swiss roll' and name == 'KAN'")["c2st"]
    assert first["c2st"] == format_interval(mean_interval(values))
    assert table.iloc[3]["excess"] == ""
    large = contents.results.rows.assign(flops=32_612_352.0)
    assert summary_table(Results.of(large)).iloc[0]["flops"] == "32.6 M"


def test_columns_that_were_never_measured_are_left_out(contents):
    results = Results.of(contents.results.rows.drop(columns=["w2", "w2_real", "flops"]))
    assert "w2" not in summary_table(results)
    assert "flops" not in trial_table(results)
    assert "excess" in trial_table(results)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0016349, "0.00163"), (0.5, "0.500"), (0, "0"), (22_080, "22,080"), (123.4, "123"),
        (2.5e-7, "2.50e-07"), (float("nan"), "–"), (None, "–"), (9.996, "10.0"), (999.7, "1,000"),
    ],
)  # fmt: skip
def test_format_number(value, text):
    assert format_number(value) == text


def test_format_interval_shares_decimals():
    assert re.fullmatch(
        r"0\.00200 \[−0\.00048, 0\.00448\]", format_interval(mean_interval([0.001, 0.002, 0.003]))
    )
    assert format_interval(mean_interval([0.002])) == "0.00200"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0.40 s"), (31.2, "31 s"), (720, "12 min"), (7_560, "2.1 h"), (float("nan"), "–")],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text
