from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import refused
from kan_diffusion.data.codec import TableCodec
from kan_diffusion.errors import DataError, KanDiffusionError


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _mixed(num: int = 600, seed: int = 0) -> pd.DataFrame:
    rng = _rng(seed)
    days = pd.to_timedelta(rng.integers(0, 1000, num), unit="D")
    frame = pd.DataFrame(
        {
            "height": rng.normal(170, 8, num),
            "wealth": np.exp(2 * rng.normal(size=num)),
            "age": rng.integers(17, 90, num),
            "kids": rng.poisson(0.8, num),
            "price": np.round(20 * np.exp(rng.normal(size=num)), 2),
            "job": rng.choice(["cook", "smith", "Müller, Bäcker", "nurse", "clerk"], num),
            "member": rng.random(num) > 0.3,
            "since": pd.Timestamp("2020-01-01") + days,
            "spent": np.where(rng.random(num) < 0.6, 0, np.round(rng.gamma(2, 40, num), 1)),
            "score": np.where(rng.random(num) < 0.3, np.nan, rng.normal(size=num)),
            "visits": pd.array(rng.integers(0, 200, num), dtype="Int64"),
            "answer": rng.choice(np.array([True, False, None]), num),
            "size": pd.Categorical(
                rng.choice(["S", "M", "L"], num), categories=["S", "M", "L", "XL"], ordered=True
            ),
        }
    )
    frame.loc[rng.random(num) < 0.2, "visits"] = pd.NA
    return frame


def test_a_mixed_frame_comes_back() -> None:
    frame = _mixed()
    codec = TableCodec.fit(frame)
    rows = codec.encode(frame, _rng())
    assert rows.shape == (len(frame), codec.dim)
    assert rows.dtype == torch.float32
    back = codec.decode(rows, _rng())
    pd.testing.assert_frame_equal(back, frame, rtol=1e-5)


def test_blocks_and_names_cover_the_coordinates() -> None:
    codec = TableCodec.fit(_mixed())
    places = [place for block in codec.blocks for place in range(block.start, block.stop)]
    assert places == list(range(codec.dim)) == list(range(len(codec.names)))
    assert "spent is zero" in codec.names
    assert {"job 1", "job 2", "job 3", "score is missing"} <= set(codec.names)


def test_json_and_back_is_the_same_codec() -> None:
    frame = _mixed()
    codec = TableCodec.fit(frame)
    again = TableCodec.from_dict(json.loads(json.dumps(codec.to_dict())))
    assert again == codec
    assert torch.equal(again.encode(frame), codec.encode(frame))


def test_what_is_not_known_is_nan() -> None:
    frame = _mixed()
    codec = TableCodec.fit(frame)
    part = frame.drop(columns="job").assign(age=frame["age"].where(frame["age"] < 50))
    rows = codec.observe(part, _rng())
    names = list(codec.names)
    assert rows[:, names.index("job 1")].isnan().all()
    unknown = torch.tensor(list(frame["age"] >= 50))
    assert torch.equal(rows[:, names.index("age")].isnan(), unknown)
    gap = torch.tensor(list(frame["score"].isna()))
    assert torch.equal(rows[:, names.index("score")].isnan(), gap)
    assert (rows[:, names.index("score is missing")] == -1).all()


def test_samples_respect_what_a_column_is() -> None:
    frame = _mixed()
    codec = TableCodec.fit(frame)
    drawn = codec.decode(3 * torch.randn(5000, codec.dim), _rng())
    pd.testing.assert_series_equal(drawn.dtypes, frame.dtypes)
    for name in ("wealth", "kids", "price", "spent", "visits"):
        assert drawn[name].min() >= 0
    assert (drawn["price"] == drawn["price"].round(2)).all()
    assert set(drawn["job"]) <= set(frame["job"])
    assert (drawn["since"].dt.normalize() == drawn["since"]).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pd.DataFrame(), "0 rows and 0 columns"),
        (lambda: pd.DataFrame({"a": [1.0, np.inf]}), "column 'a' has inf in row 2"),
        (lambda: pd.DataFrame({"a": ["x", 1]}), "'a' mixes types: row 2 holds int after str"),
        (lambda: pd.DataFrame({"a": [[1], [2]]}), "column 'a' holds objects of type list"),
        (lambda: pd.DataFrame({"a": [1 + 2j]}), "column 'a' has dtype complex128"),
        (lambda: pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns are named 'a'"),
    ],
)
def test_bad_frames_are_refused(make, words: str) -> None:
    with refused(words, DataError):
        TableCodec.fit(make())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="age"), "column 'age' of the rows trained on is missing"),
        (lambda f: f.assign(new=1), "column 'new' is new"),
        (lambda f: f.assign(job="pilot"), "column 'job' has 'pilot' in row 1"),
        (lambda f: f.assign(age=f["age"].where(f.index != 6)), "'age' has a gap in row 7"),
        (lambda f: f.assign(age=f["age"] + 0.5), "'age' has .*.5 in row 1, and only whole numbers"),
        (
            lambda f: f.assign(age="old"),
            "held numbers in the rows trained on, and row 1 holds text",
        ),
    ],
)
def test_other_frames_are_refused(change, words: str) -> None:
    frame = _mixed()
    with refused(words, DataError):
        TableCodec.fit(frame).encode(change(frame))


def test_a_damaged_codec_is_refused() -> None:
    content = TableCodec.fit(_mixed()).to_dict()
    content["columns"][0]["transform"]["scale"] = float("nan")
    with refused("codec: .*scale", KanDiffusionError):
        TableCodec.from_dict(content)
