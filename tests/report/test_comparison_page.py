import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from html_page import Page
from kan_diffusion.report import ReportContents, write_report
from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.results.wording import overall
from synthetic_study import BUDGETS, FAMILIES, kind_of, make_contents

DATAS = ("swiss roll", "checkerboard", "wine")
NUM_SEEDS = 7


@pytest.fixture(scope="module")
def contents():
    return make_contents(
        DATAS, None, NUM_SEEDS, count=20, budget=BUDGETS[1], families=True, without_oracle=("wine",)
    )


def written(contents, folder):
    return write_report(contents, folder, figures=False).read_text()


@pytest.fixture(scope="module")
def text(contents, tmp_path_factory):
    return written(contents, tmp_path_factory.mktemp("comparison"))


@pytest.fixture(scope="module")
def read(text):
    return Page(text)


def of_data(contents, data):
    rows = contents.results.of_data(data)
    return rows[rows["error"].isna()]


def judged(data):
    return "heldout_loss" if data == "wine" else "excess"


def by_model(contents, data):
    """Seeds in rows and models in columns."""
    rows = of_data(contents, data)
    return rows.pivot(index="seed", columns="name", values=judged(data)).astype(float)


def best(values, kind):
    names = [name for name, family in FAMILIES.items() if kind_of(family[0]) == kind]
    return values[names].mean().idxmin()


def test_every_anchor_leads_somewhere_and_nothing_is_loaded_or_empty(read, text):
    assert set(read.links) <= set(read.ids)
    assert len(set(read.ids)) == len(read.ids)
    assert read.empty == []
    assert all(load.startswith("data:image/") for load in read.loads)
    assert not re.search(r"https?://|@import|url\(|<link|<iframe", text)
    assert text.count("<script>") == 1


def test_every_data_set_has_a_page(text, read):
    *articles, trials, settings = re.findall(
        r"<article id=\"(.*?)\" data-page>(.*?)</article>", text, re.S
    )
    assert (trials[0], settings[0]) == ("trials", "settings")
    assert len(articles) == len(DATAS)
    for data, (anchor, inside) in zip(DATAS, articles, strict=True):
        assert f'<li><a href="#{anchor}">{data}</a></li>' in text
        captions = set(Page(inside).tables)
        assert captions == {f"Models, {data}", f"Time used, {data}"}
    # Without scripts all pages are seen: only the script hides some.
    assert re.search(r"<body class=\"pages\">", text)
    assert " hidden" not in text.partition("<body")[2].partition("<script>")[0]


def test_the_overview_begins_with_the_verdicts(contents, text, read):
    verdicts = contents.decision.verdicts
    overview = text.partition("<main>")[2].partition("<article")[0]
    assert list(verdicts) == list(DATAS)
    places = [overview.index(overall(contents.decision)[:40])]
    lines = re.findall(r"<li><span class=\"badge (\w+)\">(.*?)</span>.*?>([^<>]*)</a>", overview)
    assert [label for _, _, label in lines] == list(verdicts)
    badges = {"KAN better": "kan", "MLP better": "mlp"}
    for badge, verdict, label in lines:
        assert verdict == verdicts[label].outcome
        assert badge == badges.get(verdict, "level")
    heads = "Best KAN against best MLP", "Every model against the best MLP"
    places += [overview.index(head) for head in heads]
    assert places == sorted(places)


def test_the_verdict_table_is_right(contents, read):
    head, *lines = read.tables["Best KAN against best MLP"]
    assert head[:2] == ["data", "verdict"]
    assert len(lines) == len(DATAS)
    for data, line in zip(DATAS, lines, strict=True):
        values = by_model(contents, data)
        kan, mlp = best(values, "kan"), best(values, "mlp")
        cells = dict(zip(head, line, strict=True))
        assert cells["data"].startswith(data)
        assert re.match(rf"{kan} [\d.]+ \(of 4\)", cells["best KAN"])
        assert re.match(rf"{mlp} [\d.]+ \(of 4\)", cells["best MLP"])
        mean = float(cells["best KAN"].removeprefix(kan).split()[0])
        assert mean == pytest.approx(values[kan].mean(), rel=5e-3)
        verdict = contents.decision.verdicts[data]
        shown, found = read.values("Best KAN against best MLP", data), verdict.difference
        assert shown["KAN minus MLP"] == pytest.approx(found.interval.mean, rel=1e-9)
        assert shown["seeds"] == len(values[[kan, mlp]].dropna())
        assert shown["ratio"] == pytest.approx(found.ratio)
        assert (shown["p"], shown["p (Holm)"]) == (found.p_value, found.p_holm)
        assert cells["verdict"] == verdict.outcome


def test_the_table_of_leads_sums_the_data_sets_up(contents, read):
    table = "Models over all data sets"
    _, *lines = read.tables[table]
    leads = contents.decision.leads
    assert len(lines) == len(leads)
    assert {lead.model for lead in leads} == {None} | {
        name for name, family in FAMILIES.items() if kind_of(family[0]) != "mlp"
    }
    for lead, line in zip(leads, lines, strict=True):
        amount = lead.amount
        assert line[0] == f"{lead.model or 'best KAN'} {amount}"
        below = sum(comparison.ratio < 1 for comparison in lead.comparisons)
        assert line[1] == f"{below} of {len(DATAS) - 1}"
        assert float(line[4].split()[0]) == pytest.approx(lead.ratio.mean, rel=5e-3)


@pytest.mark.parametrize("data", DATAS)
def test_the_numbers_of_a_data_set_are_right(contents, read, data):
    table = f"Models, {data}"
    rows, values = of_data(contents, data), by_model(contents, data)
    measure = judged(data)
    heads, *lines = read.tables[table]
    words = {"excess": "excess", "heldout_loss": "held-out loss"}
    columns = {
        words[measure]: measure, "held-out loss": "heldout_loss", "NLL": "nll", "D²": "energy",
        "SW2": "sliced_w2", "C2ST": "c2st", "parameters": "parameters",
        "FLOPs": "flops", "steps": "steps",
        "train (CPU s)": "train_cpu_seconds",
    }  # fmt: skip
    assert set(heads) == {"model", "− best MLP", "p (Holm)", *columns}
    # What is read first stands before the fold; further sizes come last.
    assert heads[:5] == ["model", "parameters", words[measure], "− best MLP", "p (Holm)"]
    assert heads[5] in {metric.label for metric in contents.results.metrics.values()}
    assert heads[-2:] == ["FLOPs", "steps"]
    oracle = ["exact oracle"] if data != "wine" else []
    assert [line[0] for line in read.keys[table][1:]] == [*FAMILIES, *oracle, "real against real"]
    baseline = best(values, "mlp")
    for name, group in rows.groupby("name"):
        shown, row = read.values(table, name), read.row(table, name)
        for head, column in columns.items():
            assert shown[head] == pytest.approx(group[column].astype(float).mean()), head
        if name == baseline:
            assert row["− best MLP"] == "best MLP"
            continue
        common = values[[name, baseline]].dropna()
        difference = (common[name] - common[baseline]).mean()
        assert shown["− best MLP"] == pytest.approx(difference, rel=1e-9)
        ratio = re.search(r"ratio ([\d.]+)", row["− best MLP"])
        expected = common[name].mean() / common[baseline].mean()
        assert float(ratio[1]) == pytest.approx(expected, rel=5e-3)
        low, high = re.search(r"\[(\S+), (\S+)\]", row["− best MLP"]).groups()
        assert float(low.replace("−", "-")) <= difference <= float(high.replace("−", "-"))
    last = {line[0]: dict(zip(heads, line, strict=True)) for line in lines}
    sw2 = float(last["real against real"]["SW2"])
    assert sw2 == pytest.approx(rows["sliced_w2_real"].mean(), rel=5e-3)
    if oracle:
        found = last["exact oracle"]
        assert (found["excess"], float(found["NLL"])) == ("0", pytest.approx(1.61))
        assert float(found["held-out loss"]) == pytest.approx(rows["floor"].mean(), rel=1e-3)


def test_every_number_leads_to_its_trials(contents, read, text):
    head, *lines = read.tables["All trials"]
    trials = {line[head.index("trial")]: dict(zip(head, line, strict=True)) for line in lines}
    assert len(trials) == len(contents.results.rows)
    named = []
    for anchors in read.trials.values():
        ids = re.findall(r"trial-([0-9a-z]+)", " ".join(anchors))
        rows = contents.results.rows.set_index("trial").loc[ids]
        # The trials of one model on one data set, all of them.
        (group,) = rows.groupby(["data", "match", "name"]).groups
        same = (contents.results.rows[["data", "match", "name"]] == list(group)).all(axis=1)
        assert sorted(ids) == sorted(contents.results.rows.loc[same, "trial"])
        named += ids
    assert sorted(named) == sorted(contents.results.rows["trial"])
    for _, row in contents.results.rows.iterrows():
        assert f'<tr id="trial-{row["trial"]}"' in text
        shown = trials[row["trial"]]
        for column, name in (("excess", "excess"), ("train (CPU s)", "train_cpu_seconds")):
            if pd.isna(row[name]):
                assert shown[column] == "–"
            else:
                assert float(shown[column]) == pytest.approx(row[name], rel=1e-5)
    assert "results.parquet" in text
    assert "trials/&lt;trial&gt;/" in text


def test_columns_of_numbers_are_sorted_as_numbers(read):
    for table, rows in read.keys.items():
        for column, words in enumerate(read.words[table]):
            keys = [row[column] for row in rows[1:]]
            if not words:
                assert all(key in ("", "–") or np.isfinite(float(key)) for key in keys), table
    assert not all(read.words["All trials"])
    verdicts = read.tables["Best KAN against best MLP"][0]
    assert read.words["Best KAN against best MLP"][verdicts.index("ratio")] is False


def test_time_that_was_used_is_told_and_large_deviations_are_flagged(contents, tmp_path, read):
    label = "swiss roll"
    timed = of_data(contents, label)
    for name, seconds in timed.groupby("name")["train_cpu_seconds"]:
        shown = read.values(f"Time used, {label}", name)
        assert shown["mean (CPU s)"] == pytest.approx(seconds.mean())
        ends = shown["least (CPU s)"], shown["most (CPU s)"]
        assert ends == pytest.approx((seconds.min(), seconds.max()))
        share = (seconds / 20.0 - 1).abs().max()
        assert shown["largest deviation"] == pytest.approx(share)
    assert not any(line.endswith("with care.") for line in read.text)
    rows = contents.results.rows.copy()
    late = timed.index[3]
    rows.loc[late, "train_cpu_seconds"] = 25.0
    page = Page(written(replace(contents, results=Results.of(rows)), tmp_path))
    name = rows.loc[late, "name"]
    (flag,) = (line for line in page.text if line.endswith("with care."))
    assert flag.startswith(f"The largest deviation of a trial from the budget is 25.0 % ({name}).")


def test_what_names_hold_cannot_break_the_page(tmp_path):
    names = {"wine": "<i>\"a'</i>", "KAN": '"><script>alert(1)</script>'}
    made = make_contents(("wine",), ("KAN", "MLP"), 2, False, 9, budget=BUDGETS[0], families=True)
    results = Results.of(made.results.rows.replace(names))
    said = ReportContents("<script>2</script>", "q", results, warnings=["a < b & c"])
    text = written(said, tmp_path)
    assert text.count("<script>") == 1
    assert "a &lt; b &amp; c" in text
    assert "<i>" not in text
    read = Page(text)
    assert set(read.links) <= set(read.ids)


@pytest.mark.parametrize(
    ("names", "budget", "badges"),
    [
        (None, BUDGETS[0], 1),
        (("MLP", "gated MLP", "spline-MLP"), BUDGETS[0], 0),  # of one kind: no verdict
        (("MLP", "gated MLP", "spline-MLP"), None, 0),
    ],
)
def test_one_data_set_has_no_table_of_verdicts_and_no_pages(tmp_path, names, budget, badges):
    one = make_contents(("wine",), names, 6, False, 9, budget=budget, families=True)
    text = written(one, tmp_path)
    read = Page(text)
    assert "Best KAN against best MLP" not in read.tables
    assert "<nav" not in text
    assert 'class="pages"' not in text
    assert text.count('class="badge') == badges
    assert ("has the lowest mean excess" in text) == (not badges)
    assert read.empty == []
