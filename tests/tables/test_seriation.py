from itertools import groupby

import numpy as np
import pandas as pd
import pytest

from kan_diffusion.tables.codec import TableCodec

JOBS = ["apprentice", "worker", "chief"]


def _orders(frame):
    """The categories of each column in the order found."""
    return {str(column.name): list(column.known) for column in TableCodec.fit(frame).columns}


@pytest.mark.parametrize("seed", range(2))
def test_cities_are_sorted_by_region_and_regions_as_their_cities(seed):
    # Cities imply regions; two numbers and a job depend more strongly on each other.
    rng = np.random.default_rng(seed)
    age = rng.normal(size=3000)
    city = rng.choice(24, 3000, p=np.arange(24, 0, -1) / 300)
    frame = pd.DataFrame(
        {
            "age": age,
            "income": age + 0.2 * rng.normal(size=3000),
            "job": np.array(JOBS)[np.digitize(age, [-0.5, 0.5])],
            "region": np.array(list("hcafbged"))[city // 3],
            "city": np.array([f"{place:02}" for place in rng.permutation(24)])[city],
        }
    )
    orders = _orders(frame)
    region_of = dict(zip(frame["city"], frame["region"], strict=True))
    regions = [region_of[city] for city in orders["city"]]
    assert [region for region, _ in groupby(regions)] == orders["region"]
    assert orders["job"] in (JOBS, JOBS[::-1])


def test_more_categories_than_are_clustered_are_sorted_too():
    street = np.repeat(np.arange(1200), 6)
    number = np.random.default_rng(0).normal(street // 100, 0.1)
    frame = pd.DataFrame({"street": [f"s{name}" for name in street * 7 % 1201], "number": number})
    found = _orders(frame)["street"]
    assert sorted(found) == sorted(set(frame["street"]))
    means = frame.groupby("street")["number"].mean()[found].round()
    assert len(list(groupby(means))) == 12
