"""Tables of mixed columns with dependences that are known."""

import numpy as np
import pandas as pd

from kan_diffusion.tables.scores import table_scores


def people(count, seed):
    """Rows of numbers, categories, dates and gaps that depend on each other."""
    random = np.random.default_rng(seed)
    z = random.normal(size=(count, 3))
    job = random.choice(["nurse", "driver", "clerk"], count, p=[0.5, 0.3, 0.2])
    frame = pd.DataFrame(
        {
            "age": np.clip(np.round(40 + 12 * z[:, 0]), 18, 90).astype(int),
            "job": job,
            "income": np.exp(10 + 0.5 * z[:, 0] + 0.4 * z[:, 1] + 0.6 * (job == "nurse")).round(1),
            "since": pd.Timestamp("2015-01-01")
            + pd.to_timedelta((500 * np.abs(z[:, 0]) + 900 * random.random(count)).round(), "D"),
            "smokes": random.random(count) < 0.2 + 0.4 * (job == "driver"),
            "score": z[:, 0] + 0.5 * z[:, 2],
        }
    )
    gaps = random.random(count) < 0.2
    frame.loc[gaps, "score"] = np.nan
    frame.loc[gaps & (random.random(count) < 0.8), "job"] = None
    return frame


def shuffled(frame, seed):
    """The same columns, each in an order of its own: no dependence is left."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {name: frame[name].to_numpy()[random.permutation(len(frame))] for name in frame}
    ).astype(frame.dtypes)


def quick_scores(real, synthetic, **settings):
    """Scores of a synthetic table at a first look."""
    return table_scores(real, synthetic, generator=0, effort="quick", **settings)
