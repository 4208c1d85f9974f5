"""Tables that other generators stumble over."""

import numpy as np
import pandas as pd

from kan_diffusion import DiffusionEstimator

QUICK = {"params": 3000, "steps": 30, "batch_size": 64, "device": "cpu", "random_state": 0}


def _random():
    return np.random.default_rng(0)


def thousand_categories():
    codes = _random().integers(0, 1000, 3000)
    return pd.DataFrame({"code": [f"c{code}" for code in codes], "x": codes * 0.1})


def two_hundred_columns():
    values = _random().normal(size=(100, 200)) * 10.0 ** np.arange(-100, 100)
    return pd.DataFrame(values, columns=[f"column {place}" for place in range(200)])


def thirty_rows():
    random = _random()
    return pd.DataFrame({"a": random.normal(size=30), "b": random.choice(["x", "y"], 30)})


def all_categories():
    random = _random()
    frame = pd.DataFrame({"a": random.choice(list("abcde"), 90), "b": random.choice([3, 9], 90)})
    return frame.assign(c=pd.Categorical(frame["a"].str.upper(), list("EDCBA"), ordered=True))


def digits_as_names():
    digits = (_random().integers(0, 40, 200) + 10).astype(str)
    frame = pd.DataFrame({"code": pd.Categorical(digits), "zip": digits + "00"})
    return frame.assign(day=pd.Categorical("2024-01-" + pd.Series(digits).str[:1] + "1"))


def one_column():
    return pd.DataFrame({"only": _random().exponential(size=80)})


def strange_names():
    words = ["naïve, yes", 'say "no"', "日本", "", " a\nb"]
    frame = pd.DataFrame({"größe, cm": _random().normal(170, 9, 60)})
    return frame.assign(**{'"quoted"': (words * 12), "🙂": np.arange(60) % 7})


def duplicates():
    return pd.DataFrame({"a": [1.5, 2.5] * 40, "b": ["u", "v"] * 40})


def one_value_beside_gaps():
    numbers = pd.array([7 if p % 3 else None for p in range(60)], dtype="Int64")
    frame = pd.DataFrame({"a": [None, "yes"] * 30, "b": numbers, "c": np.nan})
    return frame.assign(d=np.arange(60) * 0.37 % 1)


def many_gaps():
    frame = pd.DataFrame(_random().normal(size=(100, 5)), columns=list("abcde"))
    return frame.mask(_random().random(frame.shape) < 0.9)


def heavy_tails():
    random = _random()
    return pd.DataFrame(
        {"cauchy": random.standard_cauchy(500), "power": random.pareto(0.3, 500)}
    ).assign(spike=lambda f: np.where(f["power"] > 1, f["cauchy"], 0.0))


TABLES = {
    make.__name__: make
    for make in (
        *(thousand_categories, two_hundred_columns, thirty_rows, all_categories),
        *(digits_as_names, one_column, strange_names, duplicates, one_value_beside_gaps),
        *(many_gaps, heavy_tails),
    )
}
QUICKLY_LEARNED = ("thirty_rows", "all_categories", "digits_as_names", "one_value_beside_gaps")


def require_learned_drawn_and_filled(frame):
    """Rows with the schema come out, and the known cells of rows with gaps stay."""
    model = DiffusionEstimator(**QUICK).fit(frame)
    rows = model.sample(150)
    assert isinstance(rows, pd.DataFrame)
    assert rows.columns.equals(frame.columns)
    assert rows.dtypes.equals(frame.dtypes)
    holes = frame.mask(_random().random(frame.shape) < 0.2)
    filled = model.impute(holes)
    for name in frame.columns:
        drawn, known = rows[name].dropna(), frame[name].dropna()
        if pd.api.types.is_float_dtype(frame[name].dtype):
            assert np.isfinite(drawn).all()
        if frame[name].dtype == object or isinstance(frame[name].dtype, pd.CategoricalDtype):
            assert set(drawn) <= set(known)
        if len(known) == len(frame):
            assert rows[name].notna().all()
        there = holes[name].notna()
        assert filled[name].notna().all() or not len(known)
        assert filled.loc[there, name].tolist() == frame.loc[there, name].tolist()
