import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import refused, seeded
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.constraints import Dependency, obeying
from kan_diffusion.tables.pipeline import TableDiffusionPipeline
from make import denoiser, process


def _places(num=600):
    """Cities imply a region, rain and a code, and their size nearly."""
    rng = np.random.default_rng(0)
    city = rng.integers(0, 12, num)
    region = np.array(["north", "east", "south", "west"])[city % 4]
    frame = pd.DataFrame(
        {
            "region": region,
            "city": [f"city {one}" for one in city],
            "rain": np.isin(region, ["north", "west"]),
            "code": 100 + 7 * city,
            "size": np.where(rng.random(num) < 0.01, "L", np.array(["S", "M"])[city % 2]),
            "x": rng.normal(size=num),
        }
    )
    frame.loc[rng.random(num) < 0.1, "region"] = None
    return frame


PLACES = _places()
CODEC = TableCodec.fit(PLACES)


def _found(codec):
    names = [str(column.name) for column in codec.columns]
    return {(names[each.determinant], names[each.dependent]) for each in codec.rules}


def test_what_always_follows_is_found_and_what_nearly_does_is_not():
    assert _found(CODEC) == {("city", "region"), ("city", "rain"), ("city", "code")}
    values = CODEC.describe().set_index("name")["values"]
    assert values["rain"] == "False, True; follows city"
    assert values["region"].endswith("; follows city")
    assert "follows" not in values["size"]


def test_chance_is_no_dependency():
    rng = np.random.default_rng(0)
    name = rng.integers(0, 900, 1000)  # nearly every row has a category of its own
    frame = pd.DataFrame(
        {
            "name": [f"n{one}" for one in name],
            "rare": np.where(np.arange(1000) == 7, "yes", "no"),
            "x": rng.normal(size=1000),
        }
    )
    assert _found(TableCodec.fit(frame)) == _found(TableCodec.fit(_places(30))) == set()


def _require_obeyed(frame):
    for name in ("region", "rain", "code"):
        known = frame.dropna(subset=["city", name])
        truth = PLACES.dropna(subset=[name]).groupby("city")[name].first()
        assert (known[name].to_numpy() == truth[known["city"]].to_numpy()).all()


def _pipeline(codec):
    """A model that has learned nothing."""
    network = denoiser("mlp", codec.dim, observable=True)
    return TableDiffusionPipeline(network, process(), codec)


@pytest.fixture(scope="module")
def pipeline():
    return _pipeline(CODEC)


@pytest.mark.parametrize(
    "conditions",
    [{}, {"region": "north"}, {"city": "city 7"}, {"rain": True, "region": "west"}, {"code": 107}],
    ids=str,
)
def test_rows_obey_whatever_is_told(pipeline, conditions):
    rows = pipeline.draw(300, conditions=conditions, generator=seeded(1))
    _require_obeyed(rows)
    for name, cell in conditions.items():
        assert (rows[name] == cell).all()
    if not conditions:
        assert rows["region"].isna().any()


def test_gaps_are_filled_with_what_follows(pipeline):
    rows = _places(80)
    gaps = rows.mask(np.random.default_rng(3).random(rows.shape) < 0.4)
    known = gaps.notna()
    (filled,) = pipeline.impute(gaps, draws=1, generator=seeded())
    _require_obeyed(filled)
    pd.testing.assert_frame_equal(
        filled.where(known).astype(object), gaps.where(known).astype(object)
    )


def test_rows_that_contradict_are_kept_as_given(pipeline):
    told = pd.DataFrame({"city": ["city 1"] * 20, "region": ["north"] * 20})
    rows = pipeline.draw(like=told, generator=seeded(1))
    pd.testing.assert_frame_equal(rows[["city", "region"]], told[["city", "region"]])
    assert rows["code"].eq(107).all()


@given(st.data())
def test_the_nearest_that_agrees_is_taken(data):
    count, num, each = (data.draw(st.integers(1, 6)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    implied = rng.integers(0, 3, (each, count))
    dependencies = [
        Dependency(determinant=0, dependent=1 + place, places=tuple(follows.tolist()))
        for place, follows in enumerate(implied)
    ]
    codes = np.column_stack([rng.integers(0, count, num), rng.integers(0, 3, (num, each))])
    given = np.column_stack([np.zeros(num, dtype=bool), rng.random((num, each)) < 0.6])
    found = obeying(codes, given, dependencies)
    for before, known, after in zip(codes, given[:, 1:], found, strict=True):
        agreeing = [
            other for other in range(count) if ((implied[:, other] == before[1:]) | ~known).all()
        ]
        if agreeing:
            assert after[0] in agreeing
            assert abs(after[0] - before[0]) == min(abs(other - before[0]) for other in agreeing)
        else:
            assert after[0] == before[0]
        assert (after[1:] == np.where(known, before[1:], implied[:, after[0]])).all()


def test_dependencies_that_fit_no_column_are_refused():
    for change in (
        {"determinant": 9},
        {"determinant": 5},
        {"dependent": 1},
        {"places": [0]},
        {"places": [12] * 12},
    ):
        content = CODEC.to_dict()
        content["rules"][0].update(change)
        with refused("codec: ", KanDiffusionError):
            TableCodec.from_dict(content)


def test_decoding_keeps_what_is_given():
    rows = torch.randn(200, CODEC.dim, generator=seeded())
    _require_obeyed(CODEC.decode(rows))
    given = CODEC.model_copy(update={"rules": ()}).decode(rows)
    pd.testing.assert_frame_equal(CODEC.decode(rows, given), given)
