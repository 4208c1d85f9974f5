"""Tables that other generators stumble over."""

import numpy as np
import pandas as pd
import pytest

from kan_diffusion import DiffusionEstimator
from kan_diffusion.tables.page import column_figure
from mixed_tables import quick_scores

QUICK = {"params": 3000, "steps": 30, "batch_size": 64, "device": "cpu", "random_state": 0}


def _random(seed=0):
    return np.random.default_rng(seed)


CODES = _random().integers(0, 1000, 3000)
DIGITS = pd.Series(_random().integers(10, 50, 90).astype(str))
LETTERS = _random().choice(list("abcde"), 90)
WORDS = ["naïve, yes", 'say "no"', "日本", "", " a\nb"]
CAUCHY, PARETO = _random().standard_cauchy(300), _random(1).pareto(0.3, 300)
MANY = pd.DataFrame(_random().normal(size=(100, 5)), columns=list("abcde"))

TABLES = {
    "thousand_categories": pd.DataFrame({"code": [f"c{code}" for code in CODES], "x": CODES * 0.1}),
    "hundred_columns": pd.DataFrame(
        _random().normal(size=(100, 100)) * 10.0 ** np.arange(-100, 100, 2)
    ).add_prefix("column "),
    "one_column_of_thirty_rows": pd.DataFrame({"only": _random().exponential(size=30)}),
    "categories_alone": pd.DataFrame(
        {
            "a": LETTERS,
            "b": _random(1).choice([3, 9], 90),
            "c": pd.Categorical(np.char.upper(LETTERS), list("EDCBA"), ordered=True),
            "digits": pd.Categorical(DIGITS),
            "zip": DIGITS + "00",
            "day": pd.Categorical("2024-01-" + DIGITS.str[:1] + "1"),
        }
    ),
    "duplicates": pd.DataFrame({"a": [1.5, 2.5] * 40, "b": ["u", "v"] * 40}),
    "odd_columns": pd.DataFrame(
        {
            "größe, cm": _random().normal(170, 9, 300),
            '"quoted"': WORDS * 60,
            "🙂": np.arange(300) % 7,
            "cauchy": CAUCHY,
            "power": PARETO,
            "spike": np.where(PARETO > 1, CAUCHY, 0.0),
            "one value and gaps": [None, "yes"] * 150,
            "one number and gaps": pd.array([None, 7, 7] * 100, dtype="Int64"),
            "gaps alone": np.nan,
        }
    ),
    "many_gaps": MANY.mask(_random(1).random(MANY.shape) < 0.9),
}


@pytest.mark.parametrize("frame", TABLES.values(), ids=TABLES)
def test_odd_tables_are_learned_drawn_and_filled(frame):
    model = DiffusionEstimator(**QUICK).fit(frame)
    rows = model.sample(150)
    assert rows.columns.equals(frame.columns)
    assert rows.dtypes.equals(frame.dtypes)
    holes = frame.mask(_random().random(frame.shape) < 0.2)
    filled = model.impute(holes)
    for name in frame.columns:
        drawn, known = rows[name].dropna(), frame[name].dropna()
        if pd.api.types.is_float_dtype(frame[name].dtype):
            assert np.isfinite(drawn).all()
        elif not pd.api.types.is_numeric_dtype(frame[name].dtype):
            assert set(drawn) <= set(known)
        if len(known) == len(frame):
            assert rows[name].notna().all()
        there = holes[name].notna()
        assert filled[name].notna().all() or not len(known)
        assert filled.loc[there, name].tolist() == frame.loc[there, name].tolist()


@pytest.mark.parametrize("frame", TABLES.values(), ids=TABLES)
def test_odd_tables_are_judged(frame):
    half = len(frame) // 2
    train, real = frame.iloc[:half], frame.iloc[half:]
    kinds = {"code": "category"} if "code" in frame else {}
    scores = quick_scores(real, train, train=train, kinds=kinds)
    value, perfect = scores.scores["value"], scores.scores["perfect"]
    assert value["copies"] == 1.0
    assert {"shapes", "c2st", "closest"} <= {*scores.scores.index}
    assert np.isfinite([value, perfect]).all()
    assert value["shapes"] == pytest.approx(perfect["shapes"], abs=1e-12)
    assert len(scores.columns) + len(scores.left_out) == len(frame.columns)
    for name in [*scores.cells][:12]:
        scale, *sides = scores.cells[name]
        shares = column_figure(name, scale, *sides).axes[0].patches[0].get_data().values
        least = 100 if scale.is_named else 90
        assert least - 1e-7 <= shares.sum() <= 100 + 1e-7, name
