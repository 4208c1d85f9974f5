"""Makes small pages of every kind for the test of pages in a browser: ``pages.py FOLDER``.

A study of many models from rows that are kept, one of a few steps with its points, a run of
pictures, an explanation of a small network and a synthetic table; by what the tests
make.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path += [
    str(ROOT / name) for name in ("benchmarks", "tests", "tests/support", "tests/all/benchmarks")
]

from command_line import call_command  # noqa: E402
from kan_diffusion.report.study import write_report  # noqa: E402
from kan_diffusion.study.run import load_study  # noqa: E402
from kan_diffusion.tables.page import write_table_page  # noqa: E402
from mixed_tables import people, quick_scores, shuffled  # noqa: E402
from runs import train_run  # noqa: E402


def many_models(folder: Path) -> None:
    """Makes the page of the verdict's models on two of its data sets, of the rows that are kept."""
    study = load_study(ROOT / "results" / "verdict" / "study" / "1-parameters")
    config = study.config.only(data=["swiss-roll", "checkerboard"])
    rows = study.rows[study.rows["data"].isin([data.name for data in config.data])]
    kept = replace(study, config=config, rows=rows.reset_index(drop=True))
    write_report(kept, folder, "make verdict")


def trained(name: str, folder: Path, *command: str) -> None:
    """Makes the page of a run, or a study, that the tests train, by a command."""
    folder.mkdir(parents=True)
    train_run(name, folder)
    assert call_command(*command, folder / "run", "--out", folder) == 0


def table(folder: Path) -> None:
    """Makes the page of rows that were drawn column by column."""
    train = people(400, 1)
    scores = quick_scores(people(300, 2), shuffled(train, 4), train=train)
    write_table_page(scores, folder / "tables.html", "People", "Columns were shuffled.")


def main() -> None:
    """Makes all pages in the folder that is given, side by side."""
    folder = Path(sys.argv[1])
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pages = [
            pool.submit(make, folder / make.__name__.replace("_", "-"))
            for make in (many_models, table)
        ]
        explain = "explain", "--library", "linear,tanh", "--seconds", "2"
        pages += [
            pool.submit(trained, "readable", folder / "explanation", *explain),
            pool.submit(trained, "study", folder / "short-study", "report"),
            pool.submit(trained, "classes", folder / "pictures", "report"),
        ]
        for page in pages:
            page.result()


if __name__ == "__main__":
    main()
