import itertools
import math

import numpy as np
import pandas as pd
import pytest

from helpers import refused
from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.results.statistics import (
    bootstrap_interval,
    holm,
    mean_interval,
    paired_permutation_p,
)
from kan_diffusion.study.results.verdicts import compare, decide
from kan_diffusion.study.results.wording import overall, say, say_lead, sentences
from synthetic_study import KINDS, around
from synthetic_study import rows_of as study

def verdicts(rows):
    return list(decide(Results.of(rows)).verdicts.values())


# --- verdicts ---------------------------------------------------------------------------------


def test_the_better_kind_is_found_on_every_data_set():
    means = {"moons": (0.002, 0.003), "circles": (0.003, 0.002), "rings": (0.002, 0.002)}
    rows = study({data: {"KAN": kan, "MLP": mlp} for data, (kan, mlp) in means.items()})
    decision = decide(Results.of(rows))
    found = list(decision.verdicts.values())
    assert [v.outcome for v in found] == ["KAN better", "MLP better", "not distinguishable"]
    p_values = [v.difference.p_value for v in found]
    assert p_values[:2] == [2 / 2**10, 2 / 2**10]
    assert [v.difference.p_holm for v in found] == holm(p_values)
    together = (
        "Of 3 data sets at 2,300 parameters the best KAN is better on 1 (moons), the best MLP on 1 "
        "(circles); on 1 they are not distinguishable; the ratio of their excesses is 0.95 "
        "[0.86, 1.04] in the median."
    )
    assert overall(decision) == together
    assert sentences(decision) == [*(say(verdict) for verdict in found), together]


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
    assert mean_interval(0.95 * shared).high > mean_interval(shared).low
    assert verdicts(rows)[0].outcome == "KAN better"
    # The order of rows has no say: it is the seed that pairs.
    shuffled = rows.sample(frac=1, random_state=0)
    assert verdicts(shuffled)[0].difference.p_value == 2 / 2**10


def test_both_sides_are_the_lowest_means_of_their_kind():
    means = dict(zip(KINDS, (0.004, 0.003, 0.005, 0.006, 0.001), strict=True))
    (found,) = verdicts(study({"moons": means}))
    assert (found.difference.model, found.difference.baseline) == ("modulated KAN", "MLP")
    assert (len(found.of_kind("kan")), len(found.of_kind("mlp"))) == (2, 2)


def test_a_clear_difference_on_five_seeds_is_out_of_reach_and_said_to_be():
    rows = study({"moons": {"KAN": around(0.001, 5), "MLP": around(0.01, 5)}})
    (found,) = verdicts(rows)
    assert found.difference.interval.high < 0
    assert found.outcome == "not distinguishable"
    assert "No outcome of 5 seeds has a p below 0.0625, so 0.05 is out of reach even" in say(found)
    # Six seeds can do it on one data set, and cannot once Holm counts six of them.
    six = {"KAN": around(0.001, 6), "MLP": around(0.01, 6)}
    (alone,) = verdicts(study({"moons": six}))
    assert alone.outcome == "KAN better"
    assert "out of reach" not in say(alone)
    many = verdicts(study({f"data {index}": six for index in range(6)}))
    assert {v.outcome for v in many} == {"not distinguishable"}
    assert "so over 6 data sets 0.05 is out of reach." in say(many[0])


def test_failed_trials_and_missing_values_leave_their_seed_out():
    kan, mlp = around(0.002, seed=1), around(0.003, seed=2)
    holes = study({"moons": {"KAN": [None, *kan[1:]], "MLP": [*mlp[:9], math.nan]}})
    (found,) = verdicts(holes)
    assert found.difference.interval == bootstrap_interval(np.subtract(kan, mlp)[1:9])
    # A seed that was never run is the same as one that failed.
    absent = holes[holes["error"].isna() & holes["excess"].notna()]
    assert verdicts(absent)[0].difference == found.difference


def test_a_model_with_less_than_half_of_the_seeds_cannot_be_the_best():
    lucky = [0.001, 0.001, 0.001, 0.001, None, None, None, None, None]
    others = {"modulated KAN": around(0.004, 9, seed=1), "MLP": around(0.002, 9, seed=2)}
    (found,) = verdicts(study({"moons": {"KAN": lucky, **others}}))
    assert (found.difference.model, found.outcome) == ("modulated KAN", "MLP better")
    lucky[4] = 0.001  # five of nine
    (found,) = verdicts(study({"moons": {"KAN": lucky, **others}}))
    assert found.difference.model == "KAN"


def test_undecided_is_said_and_does_not_cost_the_others_power():
    good = {"KAN": around(0.001, 6), "MLP": around(0.01, 6)}
    lost = {"KAN": [0.001, *[None] * 5], "MLP": around(0.01, 6)}
    decision = decide(Results.of(study({"moons": good, "rings": lost})))
    found = list(decision.verdicts.values())
    assert [v.outcome for v in found] == ["KAN better", "undecided"]
    assert found[0].difference.p_holm == 2 / 2**6
    assert say(found[1]) == (
        "rings, 2,300 parameters: no KAN finished half of its 6 seeds: undecided."
    )
    assert overall(decision).endswith("the best MLP on none; 1 is undecided.")
    (one,) = verdicts(study({"moons": {"KAN": [0.1], "MLP": [0.2]}}))
    assert one.outcome == "undecided"
    assert say(one).endswith("one seed in common decides nothing: undecided.")
    apart = {"KAN": [0.1, 0.1, None, None], "MLP": [None, None, 0.2, 0.2]}
    (none,) = verdicts(study({"moons": apart}))
    assert none.outcome == "undecided"
    assert "no seed in common" in say(none)


# --- words ------------------------------------------------------------------------------------


def test_the_sentence_says_its_numbers():
    mlp = [0.00140, 0.00160] * 5
    kan = [0.00180, 0.00220, 0.00170, 0.00210, 0.00190, 0.00200, 0.00175, 0.00195, 0.00185, 0.00205]
    rows = study({"swiss-roll": {"KAN": around(0.1), "modulated KAN": kan, "MLP": mlp}})
    (found,) = verdicts(rows)
    interval = found.difference.interval
    words = (
        "the only MLP (MLP) has an excess of 0.00150, the best KAN (modulated KAN, of 2) 0.00193: "
        "29 % more; paired difference (KAN minus MLP) 0.00043 "
        f"[{interval.low:.5f}, {interval.high:.5f}] over 10 seeds, p = 0.00195: MLP better."
    )
    assert say(found) == f"swiss-roll, 2,300 parameters: {words}"
    assert say(found, with_label=False) == words[0].upper() + words[1:]


def test_the_sentence_shows_a_small_difference_of_large_numbers():
    models = {"KAN": [0.89962, 0.89958] * 4, "MLP": [0.90002, 0.89998] * 4}
    (found,) = verdicts(study({"wine": models}, measure="heldout_loss", oracle="none"))
    assert found.measure == "heldout_loss"
    assert "a held-out loss of 0.89960, the only MLP (MLP) 0.90000: less than 0.1 % more" in (
        say(found)
    )
    assert "−0.00040 [−0.00040, −0.00040]" in say(found)


def test_models_of_one_kind_are_ranked_without_a_verdict():
    rows = study({"moons": {"MLP": around(0.001), "MLP ReLU": around(0.01), "RBF": [None] * 10}})
    decision = decide(Results.of(rows))
    (found,) = decision.verdicts.values()
    assert found.outcome is None
    assert overall(decision) == ""
    text = say(found)
    assert "moons, 2,300 parameters: MLP has an excess of 0.00" in text
    assert "10 times as much; paired difference (MLP minus MLP ReLU) −0.00" in text
    assert "p = 0.00195. There is no KAN to compare, so no verdict. RBF did not finish" in text
    (alone,) = verdicts(study({"moons": {"KAN": [0.25, 0.75]}}))
    assert say(alone) == (
        "moons, 2,300 parameters: KAN has an excess of 0.500; there is no second model to compare."
    )
    (none,) = verdicts(study({"moons": {"KAN": [None], "MLP": [None]}}))
    assert "no KAN finished half" in say(none)


def test_where_nothing_is_held_equal_models_of_equal_size_are_compared():
    models = {"KAN": around(0.002), "modulated KAN": around(0.001), "MLP": around(0.003, seed=1)}
    rows = study({"moons": models}, match=None, budget=None)
    (found,) = verdicts(rows)
    assert (found.data, found.label) == ("moons", "moons")
    assert found.difference.model == "modulated KAN"
    # With modulated KAN and KAN near each other, and only one of them near the MLP, too.
    for sizes in ((2_400, 22_080, 2_300), (2_260, 2_250, 2_365)):
        rows["parameters"] = rows["name"].map(dict(zip(models, sizes, strict=True)))
        (found,) = verdicts(rows)
        assert (found.difference.model, found.left_out) == ("KAN", ("modulated KAN",))
        assert say(found).endswith(" Only models of equal size are compared: KAN and MLP.")
    rows["parameters"] = rows["name"].map({"KAN": 2_500, "modulated KAN": 22_080, "MLP": 2_300})
    (found,) = verdicts(rows)
    assert found.outcome is None
    assert "There is no KAN and MLP of equal size, so no verdict." in say(found)
    assert decide(Results.of(rows)).comparisons == []


# --- comparisons with the best MLP ------------------------------------------------------------


def test_every_other_model_is_compared_with_the_best_mlp_and_corrected_over_data_sets():
    models = {"KAN": 0.004, "MLP": 0.003, "MLP ReLU": 0.0031, "RBF": [None] * 10}
    rows = study(dict.fromkeys(("moons", "rings", "circles"), models))
    decision = decide(Results.of(rows))
    for data, group in itertools.groupby(decision.comparisons, key=lambda c: c.data):
        means = rows[rows["data"] == data].groupby("name")["excess"].mean()
        baseline = means[["MLP", "MLP ReLU"]].idxmin()
        group = list(group)
        assert {c.baseline for c in group} == {baseline}
        assert {c.model for c in group} == {*means.index} - {baseline}
        assert all(c.ratio == pytest.approx(means[c.model] / means[baseline]) for c in group[:2])
        assert decision.of_data(data) == {c.model: c for c in group}
    kans = [c for c in decision.comparisons if c.model == "KAN"]
    assert [c.p_holm for c in kans] == holm(c.p_value for c in kans)
    assert kans[0].p_holm > kans[0].p_value
    lost = next(c for c in decision.comparisons if c.model == "RBF")
    assert lost.interval.n == 0
    assert math.isnan(lost.p_value)
    assert lost.ratio_interval is None


def test_any_measure_is_compared_with_the_mlp_that_is_judged_best():
    rows = study({"moons": {"KAN": around(4), "MLP": around(3), "MLP ReLU": around(5)}})
    noise = np.random.default_rng(0).normal(size=len(rows))
    rows["energy"] = np.repeat([1.0, 3.0, 2.0], 10) + 0.1 * noise
    results = Results.of(rows)
    kan, relu = compare(results, "moons", "energy")
    assert (kan.baseline, relu.baseline) == ("MLP", "MLP")  # although MLP ReLU has less energy
    differences = rows["energy"][:10].to_numpy() - rows["energy"][10:20].to_numpy()
    assert kan.interval == bootstrap_interval(differences)
    assert kan.winner == "KAN"
    mean = rows["energy"][10:20].mean()
    assert kan.ratio == pytest.approx(1 + differences.mean() / mean)
    assert kan.ratio_interval == pytest.approx(
        (1 + kan.interval.low / mean, 1 + kan.interval.high / mean)
    )
    assert compare(results, "moons")[0].measure == "excess"
    for asked, message in (
        (("nowhere",), "unknown data set 'nowhere'"),
        (("moons", "nothing"), "unknown measure 'nothing'"),
        (("moons", "energy", "nobody"), "unknown model 'nobody'"),
    ):
        with refused(message):
            compare(results, *asked)


def test_leads_sum_up_the_data_sets_with_an_exact_oracle():
    means = {
        "moons": (0.002, 0.004, 0.003, 0.009),
        "circles": (0.004, 0.003, 0.008, 0.002),
        "rings": (0.001, 0.002, 0.004, 0.005),
    }
    exact = study({data: dict(zip(KINDS, each, strict=False)) for data, each in means.items()})
    models = {"KAN": around(0.9), "MLP": around(0.7, seed=13)}
    table = study({"wine": models}, measure="heldout_loss", oracle="none")
    decision = decide(Results.of(pd.concat([exact, table])))
    assert [lead.model for lead in decision.leads] == [None, "KAN", "modulated KAN"]
    best, kan, _ = decision.leads
    # The best KAN of each data set against the best MLP there, whichever those are.
    assert [(c.model, c.baseline) for c in best.comparisons] == [
        ("KAN", "MLP"),
        ("modulated KAN", "MLP ReLU"),
        ("KAN", "MLP"),
    ]
    assert kan.ratio.mean == sorted(c.ratio for c in kan.comparisons)[1]
    assert kan.ratio.low < kan.ratio.mean < kan.ratio.high
    assert (kan.ahead, kan.better, kan.worse) == (["moons", "rings"],) * 2 + (["circles"],)
    low, high = kan.ratio.low, kan.ratio.high
    assert say_lead(kan) == (
        "At 2,300 parameters KAN has less excess than the best MLP on 2 of 3 data sets. It is "
        "called better on 2 (moons, rings) and worse on 1 (circles). The ratio is "
        f"{kan.ratio.mean:.2f} [{low:.2f}, {high:.2f}] in the median."
    )
    # The table has no ratio of excesses.
    assert overall(decision).startswith("Of 4 data sets")
    assert overall(decision).endswith("] in the median of 3 data sets.")
    # One data set is no sum.
    assert not decide(Results.of(exact[exact["data"] == "moons"])).leads
