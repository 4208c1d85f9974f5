import numpy as np
import pandas as pd
import pytest

import odd_tables
from kan_diffusion.tables.marginals import Picture
from kan_diffusion.tables.scores import table_scores
from mixed_tables import people, shuffled

TRAIN, REAL = people(1_200, 1), people(700, 2)


@pytest.fixture(scope="module")
def fresh():
    return table_scores(REAL, people(1_200, 3), train=TRAIN, generator=0)


def test_real_rows_score_as_a_perfect_model(fresh):
    assert [score.key for score in fresh.scores] == [
        *("shapes", "gaps", "trends", "c2st", "usefulness", "closest", "copies"),
    ]
    for key in ("shapes", "trends", "gaps"):
        assert fresh[key].value > 0.93
    for key in ("shapes", "trends", "gaps", "usefulness"):
        assert fresh[key].value == pytest.approx(fresh[key].perfect, abs=0.06), key
    for key in ("c2st", "closest"):
        score = fresh[key]
        assert abs(score.value - score.perfect) < 2.5 * score.margin, key  # 5 standard deviations
        one = score.margin / (2**0.5 if key == "c2st" else 1)  # of one accuracy
        assert abs(score.value - 0.5) < 2.5 * one, key
    # The real rows of both tests are told apart by luck, too: the variances add.
    assert fresh["c2st"].margin == pytest.approx(1.96 * np.sqrt(0.25 / 1_400 + 0.25 / 1_400))
    assert fresh["copies"].value == 0
    assert fresh.rows == (700, 1_200, 1_200)


def test_independent_columns_keep_their_shapes_and_lose_everything_else():
    loose = table_scores(REAL, shuffled(TRAIN, 4), train=TRAIN, generator=0)
    for key in ("shapes", "gaps"):
        assert loose[key].value == pytest.approx(loose[key].perfect, abs=1e-12)
    for key, by in {"trends": 0.03, "usefulness": 0.2}.items():
        assert loose[key].value < loose[key].perfect - by, key
    assert loose["c2st"].value > 0.8
    worst = loose.pairs.iloc[0]
    assert {worst.first, worst.second} == {"age", "score"}
    assert worst.real > 0.8
    assert abs(worst.synthetic) < 0.1


def test_the_order_of_rows_does_not_tell_samples_apart():
    rows = pd.DataFrame({"a": np.arange(900.0), "b": np.arange(900) % 7})
    rows = rows.sample(frac=1, random_state=0)
    real, train = rows[:200].sort_values("a"), rows[200:].sort_values("a")
    score = table_scores(real, train, train=train, generator=0)["c2st"]
    for value in (score.value, score.perfect):
        assert abs(value - 0.5) < 2.5 * score.margin


def test_learners_predict_the_columns_they_are_asked_to(fresh):
    assert set(fresh.usefulness["target"]) == {"score", "age", "income"}
    assert set(fresh.usefulness["learner"]) == {"linear", "forest", "boosted trees"}
    scores = table_scores(REAL, TRAIN, targets=["job"], generator=0)
    assert set(zip(scores.usefulness["target"], scores.usefulness["measure"], strict=True)) == {
        ("job", "AUC")
    }
    assert (scores.usefulness["real"] > 0.6).all()


def test_many_rare_categories_do_not_tell_real_rows_from_real_rows():
    names = np.random.default_rng(0).integers(0, 1_000, size=(3, 2_000))
    real, other, train = (pd.DataFrame({"name": [f"n{n}" for n in side]}) for side in names)
    kinds = {"name": "category"}
    score = table_scores(real, other, train=train, kinds=kinds, generator=0)["c2st"]
    assert abs(score.value - 0.5) < 2.5 * score.margin / 2**0.5  # 5 standard deviations


@pytest.mark.parametrize("name", odd_tables.TABLES)
def test_odd_tables_are_judged(name):
    frame = odd_tables.TABLES[name]().rename(columns=str)
    half = len(frame) // 2
    train, real = frame.iloc[:half], frame.iloc[half:]
    kinds = {"code": "category"} if "code" in frame else {}
    scores = table_scores(real, train, train=train, kinds=kinds, generator=0, effort="quick")
    assert scores["copies"].value == 1.0
    assert {"shapes", "c2st", "closest"} <= {score.key for score in scores.scores}
    numbers = [(score.value, score.perfect) for score in scores.scores]
    assert np.isfinite(numbers).all()
    assert scores["shapes"].value == pytest.approx(scores["shapes"].perfect, abs=1e-12)
    assert len(scores.columns) + len(scores.left_out) == len(frame.columns)
    for name, picture in scores.pictures.items():
        assert isinstance(picture, Picture)
        least = 1.0 if picture.labels else 0.9
        assert least - 1e-9 <= picture.real.sum() <= 1 + 1e-9, name
