import numpy as np
import pandas as pd
import pytest

from kan_diffusion.tables.scores import table_scores
from mixed_tables import people, shuffled

TRAIN, REAL = people(1_200, 1), people(700, 2)


@pytest.fixture(scope="module")
def fresh():
    return table_scores(REAL, people(1_200, 3), train=TRAIN, generator=0)


def test_real_rows_score_as_a_perfect_model(fresh):
    keys = ["shapes", "gaps", "trends", "c2st", "usefulness", "closest", "copies"]
    assert fresh.scores.index.tolist() == keys
    value, perfect, margin = (fresh.scores[name] for name in ("value", "perfect", "margin"))
    for key in ("shapes", "trends", "gaps"):
        assert value[key] > 0.93
    for key in ("shapes", "trends", "gaps", "usefulness"):
        assert value[key] == pytest.approx(perfect[key], abs=0.06), key
    for key in ("c2st", "closest"):
        assert abs(value[key] - perfect[key]) < 2.5 * margin[key], key  # 5 standard deviations
        one = margin[key] / (2**0.5 if key == "c2st" else 1)  # of one accuracy
        assert abs(value[key] - 0.5) < 2.5 * one, key
    # The real rows of both tests are told apart by luck, too: the variances add.
    assert margin["c2st"] == pytest.approx(1.96 * np.sqrt(0.25 / 1_400 + 0.25 / 1_400))
    assert value["copies"] == 0
    assert fresh.num_rows == (700, 1_200, 1_200)


def test_independent_columns_keep_their_shapes_and_lose_everything_else():
    loose = table_scores(REAL, shuffled(TRAIN, 4), train=TRAIN, generator=0)
    value, perfect = loose.scores["value"], loose.scores["perfect"]
    for key in ("shapes", "gaps"):
        assert value[key] == pytest.approx(perfect[key], abs=1e-12)
    for key, by in {"trends": 0.03, "usefulness": 0.2}.items():
        assert value[key] < perfect[key] - by, key
    assert value["c2st"] > 0.8
    worst = loose.pairs.iloc[0]
    assert {worst.first, worst.second} == {"age", "score"}
    assert worst.real > 0.8
    assert abs(worst.synthetic) < 0.1


def test_trees_predict_the_columns_they_are_asked_to(fresh):
    assert fresh.usefulness["target"].tolist() == ["income", "smokes", "score"]
    scores = table_scores(REAL, TRAIN, targets=["job"], generator=0)
    assert scores.usefulness["target"].tolist() == ["job"]
    assert (scores.usefulness["real"] > 0.6).all()
    lost = REAL.assign(job="nurse", smokes=True)  # of which a single category can be learned
    alone = table_scores(REAL, lost, targets=["job", "smokes"], generator=0).usefulness
    assert alone["synthetic"].tolist() == [0.5, 0.5]


def test_neither_the_order_of_rows_nor_rare_categories_tell_samples_apart():
    rows = pd.DataFrame({"a": np.arange(900.0), "b": np.arange(900) % 7})
    rows = rows.sample(frac=1, random_state=0)
    real, train = rows[:200].sort_values("a"), rows[200:].sort_values("a")
    score = table_scores(real, train, train=train, generator=0).scores.loc["c2st"]
    for value in (score["value"], score["perfect"]):
        assert abs(value - 0.5) < 2.5 * score["margin"]
    names = np.random.default_rng(0).integers(0, 1_000, size=(3, 2_000))
    real, other, train = (pd.DataFrame({"name": [f"n{n}" for n in side]}) for side in names)
    kinds = {"name": "category"}
    score = table_scores(real, other, train=train, kinds=kinds, generator=0).scores.loc["c2st"]
    assert abs(score["value"] - 0.5) < 2.5 * score["margin"] / 2**0.5  # 5 standard deviations
