"""Makes small pages of every kind for the test of pages in a browser: ``pages.py FOLDER``.

A study of many models from rows that are kept, one of a few steps with pictures of points, an
explanation of a small network, a synthetic table and the truth lab.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))

from kan_diffusion.denoisers.library import LIBRARY  # noqa: E402
from kan_diffusion.formulas.explain import ExplainOptions, explain_run  # noqa: E402
from kan_diffusion.formulas.match import SearchOptions  # noqa: E402
from kan_diffusion.report.explanation import write_explanation  # noqa: E402
from kan_diffusion.report.gather import report_contents  # noqa: E402
from kan_diffusion.report.study import write_report  # noqa: E402
from kan_diffusion.study.config import StudyConfig  # noqa: E402
from kan_diffusion.study.named import single_trial  # noqa: E402
from kan_diffusion.study.run import load_study, run_study  # noqa: E402
from kan_diffusion.study.trial import run_trial  # noqa: E402
from kan_diffusion.tables.files import TABLES  # noqa: E402
from kan_diffusion.tables.page import write_table_page  # noqa: E402
from kan_diffusion.tables.scores import table_scores  # noqa: E402
from truth_lab.lab import LabResult, LabResults  # noqa: E402
from truth_lab.page import write_lab  # noqa: E402
from truth_lab.truth import Recovered  # noqa: E402

FEW = {"num_noised": 500, "num_samples": 300, "num_likelihood": 20, "num_drawn": 300}


def many_models(folder: Path) -> None:
    """Makes the page of the verdict's models on two of its data sets, of the rows that are kept."""
    study = load_study(ROOT / "results" / "verdict" / "study")
    config = study.config.with_data(["swiss-roll", "checkerboard"])
    rows = study.rows[study.rows["data"].isin([data.name for data in config.data])]
    kept = replace(study, config=config, rows=rows.reset_index(drop=True))
    write_report(report_contents(kept, "make verdict"), folder / "many-models")


def short_study(folder: Path) -> None:
    """Makes the page of a KAN and an MLP on one data set, with their points."""
    config = StudyConfig.model_validate(
        {
            "name": "short",
            "title": "KAN and MLP, hardly trained",
            "question": "Which denoises better?",
            "seeds": 2,
            "data": [{"toy": "moons", "num_points": 500}],
            "training": {"steps": 60, "batch_size": 64},
            "models": [{"family": family, "params": 600} for family in ("kan", "mlp")],
            "sampling": {"steps": 8},
            "evaluation": {**FEW, "moments": [0, 0.5]},
        }
    )
    place = folder / "short-study"
    place.mkdir(parents=True, exist_ok=True)
    (place / "study.yaml").write_text(config.pinned().to_yaml())
    for trial in config.pinned().trials():  # in this process, which is faster
        run_trial(trial, place / "trials" / trial.id, device="cpu")
    write_report(report_contents(run_study(config, place), "kan-diffusion compare moons"), place)


def explanation(folder: Path) -> None:
    """Makes the page of a network that was trained for a few steps."""
    run = folder / "explanation" / "run"
    trial = single_trial("oblique-modes", family="readable-kan", params=140, steps=150, seed=1)
    few = trial.evaluation.model_copy(update={**FEW, "moments": (0.0, 0.5)})
    run_trial(trial.model_copy(update={"evaluation": few}), run, device="cpu")
    library = {name: LIBRARY[name] for name in ("linear", "tanh")}
    search = SearchOptions(library=library, seconds=2.0)
    options = ExplainOptions(search=search, level_seconds=1.0, levels=(100, 500), num_samples=300)
    explained, _ = explain_run(
        run, folder / "explanation", options, command="kan-diffusion explain"
    )
    write_explanation(explained, folder / "explanation")


def table(folder: Path) -> None:
    """Makes the page of rows that were drawn column by column."""
    frame = TABLES["wine"]().iloc[:, :7]
    draws = np.random.default_rng(0)
    drawn = {name: draws.permutation(frame[name].to_numpy()) for name in frame}
    scores = table_scores(frame.iloc[::2], pd.DataFrame(drawn), train=frame.iloc[1::2], generator=0)
    write_table_page(
        scores, folder / "table" / "tables.html", "Rows of wine", "Columns were shuffled."
    )


def lab(folder: Path) -> None:
    """Makes the truth lab's page of made-up recoveries."""
    results = [
        LabResult(
            toy=toy,
            seed=seed,
            formula=("- 1.01 x",),
            constants=tuple(
                Recovered("m", sigma, 2.0, 2.0 + 0.02 * seed * sigma) for sigma in (0.1, 0.5, 0.9)
            ),
            has_form=True,
            separate=True,
            edges=7,
            curves=0,
            best_r2=1.0,
            excess={"network": 0.0123, "formula": 0.00456},
            energy={"network": 0.002, "formula": 0.003},
            energy_real=0.002,
            seconds=12.5,
        )
        for toy in ("two-modes", "four-modes", "oblique-modes")
        for seed in (1, 2)
    ]
    write_lab(LabResults(tuple(results)), folder / "lab")


def main() -> None:
    """Makes all pages in the folder that is given, side by side."""
    folder = Path(sys.argv[1])
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pages = [
            pool.submit(each, folder)
            for each in (many_models, explanation, short_study, table, lab)
        ]
        for page in pages:
            page.result()


if __name__ == "__main__":
    main()
