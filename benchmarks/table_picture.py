"""Draws the columns of a table beside those that a model with the defaults generates.

The table is `fair` from statsmodels: marriage, work and affairs of 6,366 women in 1974.

    python benchmarks/table_picture.py
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import statsmodels.api as sm
from PIL import Image

from kan_diffusion import DiffusionEstimator, table_scores
from kan_diffusion.files import whole_file
from kan_diffusion.tables.page import column_figure

ACROSS = 3


def main() -> None:
    """Fits a model, judges its rows and draws the columns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/tables/fair-columns.png"))
    path: Path = parser.parse_args().out
    rows = sm.datasets.fair.load_pandas().data.sample(frac=1, random_state=0)
    real, train = rows[: len(rows) // 5], rows[len(rows) // 5 :]
    model = DiffusionEstimator(random_state=0, verbose=True).fit(train)
    scores = table_scores(real, model.sample(len(train)), train=train, generator=0)
    print(scores.scores)
    pictures = []
    for name in scores.columns["name"]:
        buffer = io.BytesIO()
        column_figure(name, *scores.cells[name]).savefig(buffer, dpi=110)
        pictures.append(Image.open(buffer))
    width, height = pictures[0].size
    down = -(-len(pictures) // ACROSS)
    whole = Image.new("RGB", (ACROSS * width, down * height), "white")
    for place, picture in enumerate(pictures):
        whole.paste(picture, (place % ACROSS * width, place // ACROSS * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        whole.save(temporary, "PNG")


if __name__ == "__main__":
    main()
