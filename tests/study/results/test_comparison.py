import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kan_diffusion.errors import DataError
from kan_diffusion.study.results.comparison import (
    Setting,
    differences_to_best_mlp,
    judged_measure,
    measure_table,
    overall_sentence,
    pareto_front,
    rankings,
    rows_of,
    settings_of,
    verdicts,
)
from kan_diffusion.study.results.statistics import (
    bootstrap_interval,
    holm,
    mean_interval,
    nemenyi_critical_difference,
    paired_permutation_p,
)

KINDS = {"KAN": "kan", "modulated KAN": "kan", "MLP": "mlp", "MLP ReLU": "mlp", "RBF": "other"}


def study(values, *, match="params", budget=2_300.0, measure="excess", oracle="exact"):
    """Rows of a study from {data: {model: values of seeds 0, 1, ...}}; None for a failed trial."""
    rows = []
    for data, models in values.items():
        for name, of_seeds in models.items():
            for seed, value in enumerate(of_seeds):
                failed = value is None
                rows.append(
                    {
                        "data": data,
                        "match": match,
                        "budget": budget,
                        "family": name.lower().replace(" ", "-"),
                        "kind": KINDS[name],
                        "name": name,
                        "parameters": 2_300,
                        "seed": seed,
                        "trial": f"{data}/{name}/{seed}",
                        "error": "the loss became non-finite" if failed else None,
                        "oracle": oracle,
                        measure: math.nan if failed else value,
                    }
                )
    return pd.DataFrame(rows)


def around(mean, num=10, spread=0.1, seed=0):
    """Positive values of seeds whose logarithms scatter by ``spread`` about that of ``mean``."""
    return (mean * np.exp(spread * np.random.default_rng(seed).normal(size=num))).tolist()


def as_old(rows):
    return rows.drop(columns=["match", "budget", "kind", "oracle"])


# ------------------------------------------------------------------------------------ settings


def test_settings_come_in_order_and_split_the_rows():
    models = {"KAN": [1.0], "MLP": [2.0]}
    rows = pd.concat(
        [
            study({"moons": models, "circles": models}, match="time", budget=6.0),
            study({"moons": models}, match="params", budget=2_300),
            study({"moons": models}, match=None, budget=math.nan),
        ]
    )
    found = settings_of(rows)
    assert found == [
        Setting("moons", "time", 6.0),
        Setting("circles", "time", 6.0),
        Setting("moons", "params", 2_300.0),
        Setting("moons", None, None),
    ]
    parts = [rows_of(rows, setting) for setting in found]
    assert sum(map(len, parts)) == len(rows)
    assert set(parts[2]["match"]) == {"params"}
    assert list(parts[0]) == list(rows)
    assert rows_of(rows, Setting("moons", "time", 7.0)).empty


@pytest.mark.parametrize(
    ("match", "budget", "label"),
    [
        (None, None, "moons"),
        ("params", 2_300.0, "moons, 2,300 parameters"),
        ("flops", 20_000.0, "moons, 20,000 FLOPs a point"),
        ("time", 6.0, "moons, 6 s of training"),
        ("time", 2.5, "moons, 2.5 s of training"),
        ("time", 300.0, "moons, 5 min of training"),
        ("params", None, "moons, equal parameters"),
    ],
)
def test_labels(match, budget, label):
    assert Setting("moons", match, budget).label == label


def test_judged_measure_is_excess_only_where_all_oracles_are_exact():
    rows = study({"moons": {"KAN": [0.1, 0.2], "MLP": [0.3, None]}})
    assert judged_measure(rows) == "excess"
    assert judged_measure(rows.assign(oracle="estimated")) == "heldout_loss"
    assert judged_measure(rows.assign(oracle=["exact", "none", "exact", "exact"])) == "heldout_loss"
    # A failed trial has no say.
    assert judged_measure(rows.assign(oracle=["exact", "exact", "exact", "none"])) == "excess"
    # Older studies: an excess without a word on the oracle.
    assert judged_measure(as_old(rows)) == "excess"
    assert judged_measure(as_old(rows).assign(excess=math.nan)) == "heldout_loss"


def test_rows_without_what_they_must_have_are_refused():
    rows = study({"moons": {"KAN": [0.1], "MLP": [0.3]}})
    with pytest.raises(DataError, match="no column 'seed'"):
        verdicts(rows.drop(columns="seed"))
    with pytest.raises(DataError, match="'KAN' has seed 0 twice"):
        verdicts(pd.concat([rows, rows]))
    empty = pd.DataFrame()
    assert settings_of(empty) == verdicts(empty) == rankings(empty) == []
    assert measure_table(empty).empty


# ------------------------------------------------------------------------------------ verdicts


def test_the_better_kind_is_found_on_every_data_set():
    rows = study(
        {
            "moons": {"KAN": around(0.002, seed=1), "MLP": around(0.003, seed=2)},
            "circles": {"KAN": around(0.003, seed=3), "MLP": around(0.002, seed=4)},
            "rings": {"KAN": around(0.002, seed=5), "MLP": around(0.002, seed=6)},
        }
    )
    found = verdicts(rows)
    assert [v.verdict for v in found] == ["KAN better", "MLP better", "not distinguishable"]
    p_values = [v.difference.p_value for v in found]
    assert p_values[:2] == [2 / 2**10, 2 / 2**10]
    assert [v.difference.p_holm for v in found] == holm(p_values)
    assert overall_sentence(found) == (
        "Of 3 data sets at 2,300 parameters the best KAN is better on 1 (moons), the best MLP on 1 "
        "(circles); on 1 they are not distinguishable."
    )


def test_a_difference_is_paired_and_kan_minus_mlp():
    kan, mlp = around(0.002, seed=1), around(0.003, seed=2)
    (found,) = verdicts(study({"moons": {"MLP": mlp, "KAN": kan}}))
    differences = np.subtract(kan, mlp)
    assert found.difference.interval == bootstrap_interval(differences)
    assert found.difference.p_value == paired_permutation_p(differences)
    assert found.difference.ratio == pytest.approx(np.mean(kan) / np.mean(mlp))
    assert (found.difference.model, found.difference.baseline) == ("KAN", "MLP")


def test_pairing_finds_what_scatter_between_seeds_hides():
    shared = np.array(around(0.01, spread=1.0, seed=1))
    rows = study({"moons": {"KAN": (0.95 * shared).tolist(), "MLP": shared.tolist()}})
    means = [mean_interval(0.95 * shared), mean_interval(shared)]
    assert means[0].overlaps(means[1])
    assert verdicts(rows)[0].verdict == "KAN better"
    # The order of rows has no say: it is the seed that pairs.
    shuffled = rows.sample(frac=1, random_state=0)
    assert verdicts(shuffled)[0].difference.p_value == 2 / 2**10


def test_both_sides_are_the_lowest_means_of_their_kind():
    rows = study(
        {
            "moons": {
                "KAN": around(0.004, seed=1),
                "modulated KAN": around(0.003, seed=2),
                "MLP": around(0.005, seed=3),
                "MLP ReLU": around(0.006, seed=4),
                "RBF": around(0.001, seed=5),
            }
        }
    )
    (found,) = verdicts(rows)
    assert (found.kan, found.num_kans, found.mlp, found.num_mlps) == ("modulated KAN", 2, "MLP", 2)


def test_a_clear_difference_on_five_seeds_is_out_of_reach_and_said_to_be():
    rows = study({"moons": {"KAN": around(0.001, 5), "MLP": around(0.01, 5)}})
    (found,) = verdicts(rows)
    assert found.difference.interval.high < 0
    assert found.verdict == "not distinguishable"
    assert (
        "No outcome of 5 seeds has a p below 0.0625, so 0.05 is out of reach even" in found.sentence
    )
    # Six seeds can do it on one data set, and cannot once Holm counts six of them.
    six = {"KAN": around(0.001, 6), "MLP": around(0.01, 6)}
    (alone,) = verdicts(study({"moons": six}))
    assert alone.verdict == "KAN better"
    assert "out of reach" not in alone.sentence
    many = verdicts(study({f"data {index}": six for index in range(6)}))
    assert {v.verdict for v in many} == {"not distinguishable"}
    assert "so over 6 data sets 0.05 is out of reach." in many[0].sentence


def test_budgets_are_corrected_apart():
    models = {"KAN": around(0.001, 6), "MLP": around(0.01, 6)}
    rows = pd.concat([study({"moons": models}), study({"moons": models}, match="time", budget=6.0)])
    found = verdicts(rows)
    assert [v.difference.p_holm for v in found] == [2 / 2**6] * 2
    assert overall_sentence(found) == (
        "On moons at 2,300 parameters the best KAN is better than the best MLP. "
        "On moons at 6 s of training the best KAN is better than the best MLP."
    )


def called_apart(names, num_studies, seed):
    """How many studies of models that are all alike, ten seeds each, find a better kind."""
    generator = np.random.default_rng(seed)
    values = np.exp(0.3 * generator.normal(size=(num_studies, len(names), 10)))
    # Budgets of their own keep Holm's correction from running over the studies.
    rows = [
        study({"moons": dict(zip(names, own.tolist(), strict=True))}, budget=float(index))
        for index, own in enumerate(values)
    ]
    found = verdicts(pd.concat(rows))
    assert len(found) == num_studies
    return sum(each.verdict != "not distinguishable" for each in found)


def test_a_pair_of_equals_is_told_apart_as_often_as_the_level_says():
    # Binomial: 120 draws at 0.05, four standard deviations above; at none the test would be idle.
    called = called_apart(("KAN", "MLP"), 120, seed=8)
    assert 0 < called < 120 * 0.05 + 4 * math.sqrt(120 * 0.05 * 0.95)


def test_the_best_of_equals_are_rarely_told_apart():
    # The best are compared on the very seeds that chose them.
    assert called_apart(("KAN", "modulated KAN", "MLP", "MLP ReLU"), 120, seed=7) < 12


def test_failed_trials_and_missing_values_leave_their_seed_out():
    kan, mlp = around(0.002, seed=1), around(0.003, seed=2)
    holes = study({"moons": {"KAN": [None, *kan[1:]], "MLP": [*mlp[:9], math.nan]}})
    (found,) = verdicts(holes)
    assert found.difference.interval == bootstrap_interval(np.subtract(kan, mlp)[1:9])
    # What a failed trial left in its row is not used.
    junk = holes.copy()
    junk.loc[junk["error"].notna(), "excess"] = 1e-9
    assert verdicts(junk) == [found]
    # A seed that was never run is the same as one that failed.
    absent = holes[holes["error"].isna() & holes["excess"].notna()]
    assert verdicts(absent)[0].difference == found.difference


def test_a_model_with_less_than_half_of_the_seeds_cannot_be_the_best():
    lucky = [0.001, 0.001, 0.001, 0.001, None, None, None, None, None]
    rows = study(
        {
            "moons": {
                "KAN": lucky,
                "modulated KAN": around(0.004, 9, seed=1),
                "MLP": around(0.002, 9, seed=2),
            }
        }
    )
    (found,) = verdicts(rows)
    assert (found.kan, found.verdict, found.num_kans) == ("modulated KAN", "MLP better", 2)
    lucky[4] = 0.001  # five of nine
    rows = study({"moons": {"KAN": lucky, "MLP": around(0.002, 9, seed=2)}})
    assert verdicts(rows)[0].kan == "KAN"


def test_undecided_is_said_and_does_not_cost_the_others_power():
    good = {"KAN": around(0.001, 6), "MLP": around(0.01, 6)}
    lost = {"KAN": [0.001, *[None] * 5], "MLP": around(0.01, 6)}
    found = verdicts(study({"moons": good, "rings": lost}))
    assert [v.verdict for v in found] == ["KAN better", "undecided"]
    assert found[0].difference.p_holm == 2 / 2**6
    assert found[1].sentence == (
        "rings, 2,300 parameters: no KAN finished half of its 6 seeds: undecided."
    )
    assert overall_sentence(found).endswith("the best MLP on none; 1 is undecided.")
    (one,) = verdicts(study({"moons": {"KAN": [0.1], "MLP": [0.2]}}))
    assert one.verdict == "undecided"
    assert one.sentence.endswith("one seed in common decides nothing: undecided.")
    apart = {"KAN": [0.1, 0.1, None, None], "MLP": [None, None, 0.2, 0.2]}
    (none,) = verdicts(study({"moons": apart}))
    assert none.verdict == "undecided"
    assert "no seed in common" in none.sentence


def test_settings_without_both_kinds_have_no_verdict():
    rows = study({"moons": {"KAN": [1.0, 2.0], "RBF": [1.0, 2.0]}, "rings": {"MLP": [1.0, 2.0]}})
    assert verdicts(rows) == []
    assert "nothing to compare" in overall_sentence([])


def test_the_sentence_says_its_numbers():
    mlp = [0.00140, 0.00160] * 5
    kan = [0.00180, 0.00220, 0.00170, 0.00210, 0.00190, 0.00200, 0.00175, 0.00195, 0.00185, 0.00205]
    rows = study({"swiss-roll": {"KAN": around(0.1), "modulated KAN": kan, "MLP": mlp}})
    (found,) = verdicts(rows)
    interval = found.difference.interval
    assert found.sentence == (
        "swiss-roll, 2,300 parameters: the only MLP (MLP) has an excess of 0.00150, the best KAN "
        "(modulated KAN, of 2) 0.00193: 29 % more; paired difference (KAN minus MLP) 0.00043 "
        f"[{interval.low:.5f}, {interval.high:.5f}] over 10 seeds, p = 0.00195: MLP better."
    )


def test_the_sentence_shows_a_small_difference_of_large_numbers():
    rows = study(
        {"wine": {"KAN": [0.89962, 0.89958] * 4, "MLP": [0.90002, 0.89998] * 4}},
        measure="heldout_loss",
        oracle="estimated",
    )
    (found,) = verdicts(rows)
    assert found.measure == "heldout_loss"
    assert "a held-out loss of 0.89960, the only MLP (MLP) 0.90000: less than 0.1 % more" in (
        found.sentence
    )
    assert "−0.00040 [−0.00040, −0.00040]" in found.sentence


def test_old_rows_say_when_sizes_are_mixed():
    rows = as_old(study({"moons": {"KAN": around(0.002), "MLP": around(0.003, seed=1)}}))
    (found,) = verdicts(rows)
    assert found.setting == Setting("moons")
    assert found.sentence.startswith("moons: the only KAN (KAN) has")
    assert "sizes differ" not in found.sentence
    rows.loc[rows["name"] == "KAN", "parameters"] = 22_080
    assert verdicts(rows)[0].sentence.endswith("Their sizes differ: 22,080 and 2,300 parameters.")


def test_old_rows_have_kinds_by_their_family():
    families = {
        **dict.fromkeys(("kan", "kan-rbf", "residual-kan"), "kan"),
        **dict.fromkeys(("mlp", "mlp-relu", "residual-mlp"), "mlp"),
        **dict.fromkeys(("spline-mlp", "rbf-2015"), "other"),
    }
    rows = pd.DataFrame(
        {
            "data": "moons",
            "family": list(families),
            "name": list(families),
            "seed": 0,
            "excess": 1.0,
        }
    )
    table = measure_table(rows)
    assert dict(zip(table["name"], table["kind"], strict=True)) == families


# --------------------------------------------------------------------- differences to the best MLP


def test_every_other_model_is_compared_with_the_best_mlp_and_corrected_over_data_sets():
    rows = study(
        {
            data: {
                "KAN": around(0.004, seed=10 * index),
                "MLP": around(0.003, seed=10 * index + 1),
                "MLP ReLU": around(0.0031, seed=10 * index + 2),
                "RBF": [None] * 10,
            }
            for index, data in enumerate(("moons", "rings", "circles"))
        }
    )
    found = differences_to_best_mlp(rows)
    for data, group in itertools.groupby(found, key=lambda d: d.setting.data):
        of_data = rows[rows["data"] == data]
        means = of_data.groupby("name")["excess"].mean()
        baseline = means[["MLP", "MLP ReLU"]].idxmin()
        group = list(group)
        assert {d.baseline for d in group} == {baseline}
        assert {d.model for d in group} == {*means.index} - {baseline}
        assert all(d.ratio == pytest.approx(means[d.model] / means[baseline]) for d in group[:2])
    kans = [d for d in found if d.model == "KAN"]
    assert [d.p_holm for d in kans] == holm(d.p_value for d in kans)
    assert kans[0].p_holm > kans[0].p_value
    lost = next(d for d in found if d.model == "RBF")
    assert lost.interval.n == 0
    assert math.isnan(lost.p_value)


def test_verdict_and_difference_to_the_best_mlp_agree():
    rows = study({"moons": {"KAN": around(0.004), "MLP": around(0.003, seed=1)}})
    (difference,) = differences_to_best_mlp(rows)
    assert verdicts(rows)[0].difference == difference


# ------------------------------------------------------------------------------------ rankings


def test_ranking_by_hand():
    orders = {"a": (1, 2, 3, 4), "b": (1, 2, 4, 3), "c": (2, 1, 3, 4), "d": (1, 2, 3, 4)}
    names = ("KAN", "MLP", "RBF", "MLP ReLU")
    rows = study(
        {
            data: {name: [rank - 0.1, rank + 0.1] for name, rank in zip(names, order, strict=True)}
            for data, order in orders.items()
        }
    )
    (found,) = rankings(rows)
    assert found.models == ["KAN", "MLP", "RBF", "MLP ReLU"]
    assert found.mean_ranks == [1.25, 1.75, 3.25, 3.75]
    assert (found.match, found.budget, found.num_settings) == ("params", 2_300.0, 4)
    # Friedman's chi² is 12 * 4 / 20 * (1.25² + 0.75² + 0.75² + 1.25²) = 10.2.
    assert found.friedman_p == pytest.approx(0.01694, abs=1e-4)
    # CD = 2.569 sqrt(20 / 24) = 2.345: only the extremes, 2.5 apart, are told apart.
    assert found.critical_difference == pytest.approx(2.345, abs=1e-3)
    assert found.cliques == [("KAN", "MLP", "RBF"), ("MLP", "RBF", "MLP ReLU")]


def test_cliques_do_not_lie_within_one_another_and_single_models_are_none():
    num = 40
    orders = [(1, 2, 3)] * 30 + [(1, 3, 2)] * 10
    rows = study(
        {
            f"data {index}": {
                name: [float(rank)] for name, rank in zip(("KAN", "MLP", "RBF"), order, strict=True)
            }
            for index, order in enumerate(orders)
        }
    )
    (found,) = rankings(rows)
    assert found.critical_difference == nemenyi_critical_difference(3, num)
    assert found.critical_difference == pytest.approx(0.524, abs=1e-3)
    assert found.mean_ranks == [1.0, 2.25, 2.75]
    assert found.cliques == [("MLP", "RBF")]


def test_models_that_one_data_set_lacks_are_not_ranked():
    full = {"KAN": [1.0, 1.0], "MLP": [2.0, 2.0], "RBF": [0.5, 0.5]}
    rows = study({"a": full, "b": full | {"RBF": [None, None]}})
    (found,) = rankings(rows)
    assert found.models == ["KAN", "MLP"]
    assert rankings(study({"a": full})) == []
    assert rankings(study({"a": {"KAN": [1.0]}, "b": {"KAN": [1.0]}})) == []
    halves = [study({"a": full}), study({"b": full}, budget=500.0)]
    assert rankings(pd.concat(halves)) == []


# ------------------------------------------------------------------------------- front and table


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6) | st.just(math.nan)), max_size=12))
def test_the_front_is_what_no_point_dominates(points):
    front = pareto_front([time for time, _ in points], [value for _, value in points])
    finite = [index for index, (_, value) in enumerate(points) if not math.isnan(value)]

    def dominated(index):
        time, value = points[index]
        return any(
            points[other][0] <= time
            and points[other][1] <= value
            and points[other] != points[index]
            for other in finite
        )

    assert sorted(front) == [index for index in finite if not dominated(index)]
    assert [points[index][0] for index in front] == sorted(points[index][0] for index in front)


def test_a_front_needs_as_many_times_as_values():
    with pytest.raises(DataError, match="2 times and 1 values"):
        pareto_front([1.0, 2.0], [1.0])


def test_measure_table_traces_its_numbers_to_trials():
    kan = [0.002, None, 0.003, 0.004]
    rows = study({"moons": {"KAN": kan, "MLP": around(0.003, 4)}, "rings": {"KAN": [0.1]}})
    rows["nll"] = np.arange(len(rows), dtype=float)
    rows["energy"] = 1.0
    rows["energy_real"] = 0.5
    rows["train_seconds"] = 10.0 * (rows["seed"] + 1)
    table = measure_table(rows)
    assert table[["data", "name"]].values.tolist() == [
        ["moons", "KAN"],
        ["moons", "MLP"],
        ["rings", "KAN"],
    ]
    first = table.iloc[0]
    assert first["trials"] == ["moons/KAN/0", "moons/KAN/2", "moons/KAN/3"]
    assert (first["seeds"], first["failed"], first["excess_n"]) == (3, 1, 3)
    own = rows[rows["trial"].isin(first["trials"])]
    for column in ("excess", "nll"):
        expected = mean_interval(own[column])
        found = [first[f"{column}_{part}"] for part in ("mean", "low", "high")]
        assert found == [expected.mean, expected.low, expected.high]
    # The judged measure is named and repeated, and a failed trial's time is not averaged in.
    assert first["measure"] == "excess"
    assert first["judged_mean"] == first["excess_mean"]
    assert first["train_seconds"] == pytest.approx((10 + 30 + 40) / 3)
    assert first["energy_real"] == 0.5
    assert first["label"] == "moons, 2,300 parameters"
    assert table["w2_n"].tolist() == [0, 0, 0]
    assert math.isnan(table.iloc[2]["excess_low"])


def test_measure_table_of_estimated_oracles_judges_by_held_out_loss():
    rows = study({"wine": {"KAN": [0.9, 0.8]}}, measure="heldout_loss", oracle="estimated")
    rows["excess"] = [0.1, 0.2]
    (row,) = measure_table(rows).to_dict("records")
    assert row["judged_mean"] == row["heldout_loss_mean"] == pytest.approx(0.85)
    assert row["excess_mean"] == pytest.approx(0.15)


def test_what_is_found_survives_a_round_trip_through_json(tmp_path):
    rows = study(
        {"moons": {"KAN": [None, *around(0.002)], "MLP": [*around(0.003, seed=1), 0.003]}},
        match=None,
        budget=math.nan,
    )
    path = tmp_path / "rows.json"
    rows.to_json(path, orient="records", double_precision=15)
    again = pd.read_json(path)
    before, after = verdicts(rows)[0], verdicts(again)[0]
    assert before.sentence == after.sentence
    assert after.setting == Setting("moons")
    assert replace(after, difference=before.difference) == before
