import re

import pytest

from kan_diffusion.report.style import model_styles
from kan_diffusion.report.tables import (
    REAL_ROW,
    format_interval,
    format_number,
    format_seconds,
    lead_table,
    model_table,
    summary_table,
    trial_table,
)
from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.results.statistics import mean_interval
from kan_diffusion.study.results.verdicts import decide
from synthetic_study import FAMILIES, make_rows

DATAS = ("swiss-roll", "moons")


@pytest.fixture(scope="module")
def results():
    return Results.of(make_rows(DATAS, num_seeds=7, budget=2_300, without_oracle=("moons",)))


@pytest.fixture(scope="module")
def decision(results):
    return decide(results)


def number(text):
    return float(re.match(r"[\d.,−]+", text)[0].replace("−", "-").replace(",", ""))


def test_the_terminals_tables_hold_what_was_measured(results):
    table = summary_table(results)
    assert list(table["model"]) == [*FAMILIES, REAL_ROW, *FAMILIES, REAL_ROW]
    assert list(table["seeds"][:2]) == ["7 of 8", "7"]
    values = results.rows.query("data == 'swiss-roll' and name == 'KAN'")["c2st"]
    assert table.iloc[0]["c2st"] == format_interval(mean_interval(values))
    assert table.iloc[len(FAMILIES)]["excess"] == ""
    large = results.rows.assign(flops=32_612_352.0)
    assert summary_table(Results.of(large)).iloc[0]["flops"] == "32.6 M"
    # Columns that were never measured are left out.
    fewer = Results.of(results.rows.drop(columns=["c2st", "c2st_real", "flops"]))
    assert "c2st" not in summary_table(fewer)
    assert "FLOPs" not in trial_table(fewer)
    assert "excess" in trial_table(fewer)


@pytest.mark.parametrize("data", DATAS)
def test_the_numbers_of_a_data_set_are_right(results, decision, data):
    measure = results.judged(data)
    frame, caption, feet = model_table(results, decision, data, model_styles(results.rows))
    rows = results.of_data(data)
    heads = {
        "excess": "excess", "held-out loss": "heldout_loss", "NLL": "nll", "D²": "energy",
        "SW2": "sliced_w2", "C2ST": "c2st", "parameters": "parameters", "FLOPs": "flops",
        "steps": "steps", "train (CPU s)": "train_cpu_seconds",
    }  # fmt: skip
    if data == "moons":
        del heads["excess"]
    assert caption == f"Models, {data}"
    assert set(frame) == {"model", "− best MLP", "p (Holm)", *heads}
    # What is read first stands before the fold; further sizes come last.
    judged = next(head for head, key in heads.items() if key == measure)
    assert list(frame)[:5] == ["model", "parameters", judged, "− best MLP", "p (Holm)"]
    assert list(frame)[-2:] == ["FLOPs", "steps"]
    comparisons = decision.of_data(data)
    for (name, group), record in zip(
        rows.groupby("name", sort=False), frame.to_dict("records"), strict=False
    ):
        assert f"</span>{name}\n" in record["model"]
        for head, key in heads.items():
            expected = group[key].astype(float).mean()
            assert number(record[head]) == pytest.approx(expected, rel=6e-3), head
        if name not in comparisons:
            assert record["− best MLP"] == "–\nbest MLP"
            continue
        mean, ends, ratio = record["− best MLP"].split("\n")
        assert number(mean) == pytest.approx(comparisons[name].interval.mean, rel=6e-3)
        assert number(ratio.removeprefix("ratio ")) == pytest.approx(
            comparisons[name].ratio, rel=6e-3
        )
        low, high = (number(end) for end in ends.strip("[]").split(", "))
        assert low <= comparisons[name].interval.mean <= high
    last = {record["model"]: record for record in frame.to_dict("records")[-feet:]}
    expected = rows["sliced_w2_real"].mean()
    assert number(last[REAL_ROW]["SW2"]) == pytest.approx(expected, rel=5e-3)
    assert ("exact oracle" in last) == (data != "moons")
    if data != "moons":
        oracle = last["exact oracle"]
        assert (oracle["excess"], number(oracle["NLL"])) == ("0", pytest.approx(1.61))
        assert number(oracle["held-out loss"]) == pytest.approx(rows["floor"].mean(), rel=1e-3)


def test_leads_sum_the_data_sets_up():
    rows = make_rows(num_seeds=7, budget=2_300, failed=False)
    decision = decide(Results.of(rows))
    table = lead_table(decision, model_styles(rows))
    assert len(table) == len(decision.leads) > 1
    for lead, record in zip(decision.leads, table.to_dict("records"), strict=True):
        assert (lead.model or "best KAN") in record["model"]
        below = sum(comparison.ratio < 1 for comparison in lead.comparisons)
        assert record["ahead on"] == f"{below} of 2"
        assert record["better on"].split("\n") == [str(len(lead.better)), *lead.better]
        assert number(record["median ratio"]) == pytest.approx(lead.ratio.mean, rel=5e-3)


def test_trials_are_all_listed_with_numbers_that_scripts_can_read(results):
    table = trial_table(results)
    assert len(table) == len(results.rows)
    assert list(table)[:5] == ["data", "match", "budget", "model", "seed"]
    assert list(table).index("excess") < list(table).index("parameters")
    (failed,) = table[table["state"] == "failed"].to_dict("records")
    assert (failed["trial"], failed["excess"], failed["parameters"]) == ("dead00", "–", "2290")
    for shown, excess in zip(table["excess"], results.rows["excess"], strict=True):
        assert (shown == "–") if excess != excess else float(shown) == pytest.approx(excess, 1e-5)


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
