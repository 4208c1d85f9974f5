from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import refused
from kan_diffusion.data.codec import TableCodec
from kan_diffusion.data.columns import Column
from kan_diffusion.data.transforms import Linear
from kan_diffusion.errors import DataError

_N = 400


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _column(values: object, kind: str | None = None, **settings: object) -> Column:
    return Column.fit("a", pd.Series(values), kind, **settings)


def _drawn(column: Column, num: int = 4000) -> pd.Series:
    """Cells of a model that knows nothing but that coordinates are normal."""
    rng = _rng()
    states = -np.ones((num, len(column.states)))
    return column.decode(states, rng.normal(size=(num, column.width)), rng)


_DAYS = pd.Timestamp("2021-03-01") + pd.to_timedelta(_rng().integers(0, 900, _N), unit="D")
_KINDS = {
    "continuous": _rng().normal(size=_N),
    "count": _rng().integers(0, 400, _N),
    "integer": _rng().integers(-40, 400, _N).astype(float),
    "boolean": _rng().integers(0, 2, _N),
    "categorical": _rng().choice(["x", "y", "z"], _N),
    "ordinal": pd.Categorical(_rng().choice(["x", "y", "z"], _N), ordered=True),
    "datetime": _DAYS,
    "constant": np.full(_N, 7),
    "identifier": [f"P-{i:04d}" for i in range(_N)],
    "mostly-zero": np.where(_rng().random(_N) < 0.7, 0, _rng().gamma(2, 30, _N)),
}


@pytest.mark.parametrize("kind", _KINDS)
def test_kinds_are_found(kind: str) -> None:
    assert _column(_KINDS[kind]).kind == kind


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([True, None, False, True], "boolean"),
        (["x", None, "x"], "constant"),
        ([None, None], "constant"),
        ([np.nan, 2.5, 2.5], "constant"),
        (range(5, 5 + _N), "identifier"),
        ([1.0, 2.0, 2.0, 5.0], "count"),
        (["0.50", "1.25"] + [f"{k / 100:.2f}" for k in range(60)], "continuous"),
        ([f"{k % 50:05d}" for k in range(200)], "categorical"),  # zeros in front: no numbers
        ([f"{1 + k % 28}/2021" for k in range(200)], "categorical"),
        ([f"{1 + k % 28:02d}.11.2021" for k in range(200)], "datetime"),
        (pd.to_timedelta(range(50), unit="min"), "continuous"),
        (np.array([np.datetime64("2020-01-01"), np.datetime64("2021-02-03")], object), "datetime"),
        (pd.Categorical([1, 2, 2, 3]), "categorical"),
    ],
)
def test_kinds_of_odd_columns(values: object, kind: str) -> None:
    assert _column(values).kind == kind


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        (["x", "y"], "continuous", "'a' cannot be of kind 'continuous': it holds text; by itself"),
        ([1, 1.5, 2], "integer", "it has 1.5 in row 2; by itself it is 'continuous'"),
        ([1, 2, -2], "count", "it has -2 in row 3"),
        ([1, 2, 3], "boolean", "it has 3 different values"),
        ([1, 2, 3], "constant", "it has 3 different values"),
        ([1, 2, 3], "datetime", "it holds numbers"),
        ([0.5, 2], "identifier", "it holds numbers"),
        (["x", "y", "z"], "ordinal", "is text without an order"),
        (pd.Categorical(["x", "y", "z"]), "identifier", "without room for new values"),
    ],
)
def test_a_kind_that_does_not_fit_is_refused(values: list[object], kind: str, words: str) -> None:
    with refused(words, DataError):
        _column(values, kind)


def test_a_kind_of_a_column_that_is_not_there_is_refused() -> None:
    with refused("no column 'b' .*known: a", DataError):
        TableCodec.fit(pd.DataFrame({"a": [1, 2]}), {"b": "integer"})
    with refused("unknown kind 'numeric'.*known: boolean, categorical"):
        TableCodec.fit(pd.DataFrame({"a": [1, 2]}), {"a": "numeric"})


def test_a_column_with_gaps_alone_or_one_value_beside_them_is_restored() -> None:
    frame = pd.DataFrame({"none": [None] * 4, "one": [2.5, np.nan, 2.5, np.nan], "all": "x"})
    codec = TableCodec.fit(frame)
    assert codec.names == ("one is missing",)
    pd.testing.assert_frame_equal(codec.decode(codec.encode(frame), _rng()), frame)


@pytest.mark.parametrize(
    ("moments", "of"),
    [
        (_DAYS, "D"),
        (pd.Series(_DAYS).dt.to_period("M").dt.to_timestamp(), "M"),
        (pd.Series(_DAYS) + pd.to_timedelta(_rng().integers(0, 24, _N), unit="h"), "h"),
        (pd.Series(_DAYS).dt.tz_localize("Europe/Berlin"), "D"),
    ],
)
def test_dates_come_in_the_resolution_of_the_column(moments: object, of: str) -> None:
    drawn = _drawn(_column(moments))
    assert drawn.dtype == pd.Series(moments).dtype
    wall = drawn.dt.tz_localize(None)
    assert (wall.dt.to_period(of).dt.to_timestamp() == wall).all()
    assert drawn.nunique() > 20


@pytest.mark.parametrize(
    ("values", "step"),
    [
        (_rng().integers(1, 900, _N) * 25, 25),
        (_rng().integers(1, 900, _N) * 0.5, 0.5),
        (np.round(_rng().gamma(2, 30, _N), 2), 0.01),
        (np.round(_rng().gamma(2, 30, _N), 1).astype("float32"), 0.1),
    ],
)
def test_numbers_come_in_the_steps_of_the_column(values: np.ndarray, step: float) -> None:
    drawn = _drawn(_column(values))
    assert drawn.dtype == values.dtype
    np.testing.assert_allclose(drawn / step, np.round(drawn / step), atol=1e-4)
    assert drawn.min() >= 0
    assert drawn.max() < 2.1 * values.max()


def test_a_plain_file_of_decimals_stays_as_it_was() -> None:
    for values in (_rng().normal(size=_N), _rng().uniform(-1, 1, _N)):
        column = _column(np.round(values, 6))
        assert isinstance(column.transform, Linear)
        drawn = _drawn(column, 20_000)
        assert drawn.value_counts().iloc[0] < 5  # nothing piles up at the ends
        np.testing.assert_allclose(drawn, drawn.round(6))


@pytest.mark.parametrize("kind", ["count", "continuous", "mostly-zero"])
def test_nothing_is_negative_where_nothing_was(kind: str) -> None:
    values = {
        "count": _rng().poisson(0.7, _N),
        "continuous": _rng().exponential(size=_N) ** 2,
        "mostly-zero": _KINDS["mostly-zero"],
    }[kind]
    for sign in (1, -1):
        drawn = sign * _drawn(_column(sign * values), 100_000)
        assert drawn.min() >= 0


def test_few_different_numbers_come_with_their_frequencies_and_no_others() -> None:
    values = _rng().choice([0, 1, 2, 7, 40], 4000, p=[0.5, 0.2, 0.2, 0.09, 0.01])
    drawn = _drawn(_column(values), 40_000)
    shares = drawn.value_counts(normalize=True)
    assert set(shares.index) == {0, 1, 2, 7, 40}
    for value, share in pd.Series(values).value_counts(normalize=True).items():
        assert shares[value] == pytest.approx(share, abs=0.01)


def test_scattered_numbers_that_many_rows_share_come_back_alone() -> None:
    rng = _rng()
    prices = np.sort(np.exp(rng.normal(3, 1, 200))).round(6)
    values = rng.choice(prices, 6000)
    values[:2000] = prices[40]
    values[-5:], values[-10:-5] = prices[-1], prices[0]
    own = [123.456789, 17.171717]  # which nobody else has
    values[[2500, 2600]] = own
    column = _column(values)
    assert column.kind == "continuous"
    drawn = _drawn(column, 40_000)
    assert set(drawn) == set(values) - set(own)
    assert (drawn == prices[40]).mean() == pytest.approx((values == prices[40]).mean(), abs=0.01)
    assert not any(str(number) in str(column.model_dump()) for number in own)
    # A number between two levels is that below it.
    back = column.decode(*column.encode(pd.Series(own), None, False), rng)
    assert back.tolist() == [prices[prices < number][-1] for number in own]


@pytest.mark.parametrize(
    "values",
    [
        np.append(_rng().choice(_rng().normal(size=100), 4000), [7.125, -9.5]),  # open ends
        _rng().normal(170, 9, 8000).round(),  # a narrow lattice
        _rng().normal(size=8000).round(2),
        _rng().choice(np.exp(_rng().normal(size=900)), 4000),  # four rows a number
    ],
)
def test_other_numbers_are_no_levels(values: np.ndarray) -> None:
    assert not _column(values).categories


def test_whole_numbers_of_many_values_come_with_the_shares_of_their_zeros() -> None:
    values = np.where(_rng().random(4000) < 0.3, 0, _rng().integers(1, 5000, 4000))
    drawn = _drawn(_column(values), 40_000)
    assert (drawn == 0).mean() == pytest.approx((values == 0).mean(), abs=0.02)


@pytest.mark.parametrize("kind", ["boolean", "categorical", "count", "mostly-zero"])
def test_cells_of_a_column_alone_have_its_shares(kind: str) -> None:
    shown = {
        "boolean": _rng().random(4000) < 0.05,
        "categorical": _rng().choice(["x", "y", "z"], 4000, p=[0.7, 0.2, 0.1]),
        "count": _rng().poisson(1.0, 4000),
        "mostly-zero": np.where(_rng().random(4000) < 0.9, 0, _rng().gamma(2, 30, 4000)),
    }[kind]
    values = pd.Series(shown).astype(object).where(np.random.default_rng(1).random(4000) < 0.8)
    values = values.convert_dtypes() if kind == "boolean" else values.infer_objects()
    drawn = _column(values).draw(20_000, _rng())
    assert drawn.isna().mean() == pytest.approx(0.2, abs=0.03)
    for value, share in values.value_counts(normalize=True)[:2].items():
        if share > 0.01:
            assert (drawn.dropna() == value).mean() == pytest.approx(share, abs=0.02)


def test_rare_categories_are_merged_on_request() -> None:
    values = ["x"] * 60 + ["y"] * 39 + ["rare"] * 2 + ["odd"]
    column = _column(values, merge_below=5)
    assert set(column.categories) == {"x", "y", "other"}
    text = column.model_dump_json()
    assert "rare" not in text
    assert "odd" not in text
    _, cells = column.encode(pd.Series(["rare", "new", "other"]), None, False)
    assert len(np.unique(cells, axis=0)) == 1
    kept = _column(pd.Categorical(values, categories=["rare", "x", "y", "odd"]), merge_below=5)
    assert kept.read(pd.Series(["x", "odd", None]))[0].tolist() == ["x", "other", ""]
    assert list(_drawn(kept).cat.categories) == ["x", "y", "other"]
    with refused("'a' has categories that are no text", DataError):
        _column([1] * 9 + [2] * 9 + [3], "categorical", merge_below=5)


@pytest.mark.parametrize(
    ("values", "pattern"),
    [
        ([f"P-{i:04d}" for i in range(50)], r"P-00\d\d"),
        ([f"{i * 2654435761 % 2**32:08x}" for i in range(50)], r"[0-9a-f]{8}"),
        ([f"user{i}" for i in range(50)], r"user\d+"),
    ],
)
def test_identifiers_are_made_anew_in_their_pattern(values: list[str], pattern: str) -> None:
    column = _column(values)
    assert (column.width, column.states) == (0, ())
    drawn = _drawn(column, 80)
    assert drawn.is_unique
    assert drawn.str.fullmatch(pattern).mean() > 0.5


def test_identifiers_may_be_long_and_large() -> None:
    long = [f"{i:01500}" for i in range(50)]
    assert _drawn(_column(long), 80).is_unique
    large = np.arange(2**63, 2**63 + 50, dtype=np.uint64)
    assert _drawn(_column(large), 80).tolist() == list(range(2**63, 2**63 + 80))


def test_an_identifier_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    frame = pd.DataFrame({"id": range(100, 150), "x": _rng().normal(size=50)})
    with caplog.at_level(logging.WARNING):
        codec = TableCodec.fit(frame)
    assert "column 'id' identifies rows" in caplog.text
    drawn = codec.decode(codec.encode(frame), _rng())
    assert drawn["id"].tolist() == list(range(100, 150))
    caplog.clear()
    assert TableCodec.fit(frame, {"id": "integer"}).dim == 2
    assert not caplog.records


def test_no_row_of_the_data_stands_in_the_codec() -> None:
    rng = _rng()
    frame = pd.DataFrame(
        {
            "wealth": np.exp(2 * rng.normal(size=500)),
            "height": rng.normal(170, 9, 500),
            "cents": rng.integers(10**6, 10**7, 500) / 100,
        }
    )
    text = str(TableCodec.fit(frame).to_dict())
    for cell in frame.to_numpy().ravel():
        assert repr(float(cell)) not in text


def test_names_that_are_whole_numbers_come_back_as_such() -> None:
    frame = pd.DataFrame(_rng().normal(size=(50, 3)), columns=[2, 0, 1])
    codec = TableCodec.fit(frame, {2: "continuous"})
    assert codec.decode(codec.encode(frame), _rng()).columns.tolist() == [2, 0, 1]
    assert codec.blocks[0].column == "2"


def test_the_scale_of_densities_is_that_of_the_coordinates() -> None:
    rng = _rng()
    frame = pd.DataFrame({"x": np.exp(rng.normal(size=500)), "k": rng.integers(0, 900, 500) / 10})
    codec = TableCodec.fit(frame)
    step = 1e-6
    moved = [codec.columns[0].transform.forward(frame["x"].to_numpy() + s) for s in (-step, step)]
    expected = np.log((moved[1] - moved[0]) / (2 * step))
    np.testing.assert_allclose(codec.columns[0].log_scale(frame["x"]), expected, atol=1e-4)
    # A tenth is a step: the probability of one is that of the density over it.
    cells = pd.Series(np.arange(0, 90, 0.1).round(1))
    z = codec.columns[1].encode(cells, None, False)[1][:, 0].astype(float)
    density = np.exp(codec.columns[1].log_scale(cells) - z**2 / 2) / np.sqrt(2 * np.pi)
    assert density.sum() * 0.1 == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(
        codec.log_scale(frame),
        codec.columns[0].log_scale(frame["x"]) + codec.columns[1].log_scale(frame["k"]),
    )


def test_categories_are_put_in_the_order_of_what_they_go_with() -> None:
    rng = _rng()
    hidden = rng.integers(0, 12, 3000)
    names = np.array(rng.permutation([f"city {k}" for k in range(12)]))
    size = np.array(["small", "middle", "large", "huge"])[hidden // 3]
    frame = pd.DataFrame({"city": names[hidden], "size": size, "rent": rng.normal(hidden, 2)})
    codec = TableCodec.fit(frame)
    place = {name: k for k, name in enumerate(names)}
    order = [place[name] for name in codec.column("city").categories]
    assert order in (sorted(order), sorted(order, reverse=True))
    assert codec.column("size").categories[0] in ("small", "huge")
    pd.testing.assert_frame_equal(codec.decode(codec.encode(frame, rng), rng), frame, rtol=1e-4)
    shares = codec.decode(torch.from_numpy(rng.normal(size=(30_000, codec.dim))), rng)[
        "city"
    ].value_counts(normalize=True)
    real = frame["city"].value_counts(normalize=True)
    assert (shares - real).abs().max() < 0.01
