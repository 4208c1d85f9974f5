"""Runs of tables judged on the command line: scores, a page, and which rows are used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from command_line import QUICK, Cli, call_quietly
from html_page import Page
from kan_diffusion.data.datasets import FileData, TableData, load_dataset, split_frames
from kan_diffusion.study.folder import load_points
from kan_diffusion.study.measure import load_run
from kan_diffusion.study.synthetic import judge_run
from kan_diffusion.training.defaults import num_held_out
from mixed_tables import people

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, trained on people.csv beside it."""
    folder = tmp_path_factory.mktemp("people")
    people(300, 0).to_csv(folder / "people.csv", index=False)
    words = ("train", folder / "people.csv", *QUICK, "--device", "cpu", "--out")
    assert call_quietly(*words, folder / "run [new]") == 0
    return folder / "run [new]"


def test_a_run_is_judged_and_has_a_page(
    cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = cli("evaluate", trained)
    assert (outcome.code, outcome.err) == (0, "")
    start = outcome.out.index("Synthetic rows")
    table = outcome.out[start:]
    assert "run[new]on" in "".join(outcome.out[:start].split())
    assert max(len(line) for line in table.splitlines() if "tables.html" not in line) <= 80
    text = " ".join(table.split())
    for words in ("column shapes 0.", "closest record 0.", "0.500 ±", "met worst: "):
        assert words in text
    assert f"Page: {trained / 'tables.html'}" in text
    page = Page((trained / "tables.html").read_text())
    assert "Real rows are those of 'people' that were held out." in " ".join(page.text)
    # The page is no part of what the run's digests are of, and another place may be asked for.
    outcome = cli("evaluate", trained, "--out", tmp_path / "mine.html")
    assert outcome.code == 0
    assert Page((tmp_path / "mine.html").read_text()).tables == page.tables


def test_other_rows_are_judged_with_and_a_lost_file_costs_the_tests_of_copies(
    cli: Cli, trained: Path, tmp_path: Path
) -> None:
    people(80, 5).to_csv(tmp_path / "others.csv", index=False)
    judged = judge_run(trained, str(tmp_path / "others.csv"))
    assert judged is not None
    scores, used = judged
    assert used == "Real rows are those of 'others'."
    assert scores.rows[0] == 80
    assert scores.rows[2] == 240 - num_held_out(240)  # those decide when training ends
    own = judge_run(trained, str(trained.parent / "people.csv"))
    assert own is not None
    assert own[0].rows[0] == 60
    assert own[0].scores == judge_run(trained)[0].scores  # type: ignore[index]

    file = trained.parent / "people.csv"
    kept = file.read_bytes()
    file.unlink()
    try:
        outcome = cli("evaluate", trained, "--data", tmp_path / "others.csv")
        assert outcome.code == 0
        assert "cannot be said without the rows" in " ".join(outcome.out.split())
        assert "there is no file" in cli("evaluate", trained).error
    finally:
        file.write_bytes(kept)


def test_points_have_no_page(cli: Cli, tmp_path: Path) -> None:
    assert cli("train", "moons", *QUICK, "--out", tmp_path / "run").code == 0
    assert cli("evaluate", tmp_path / "run").code == 0
    words = ("evaluate", tmp_path / "run", "--out", tmp_path / "page.html")
    assert "is no model of a table; --out is for tables" in cli(*words).error


@pytest.mark.parametrize("seed", [0, 3])
def test_rows_are_split_as_they_are_encoded(tmp_path: Path, seed: int) -> None:
    people(90, 0).to_csv(tmp_path / "people.csv", index=False)
    for config in (FileData(path=tmp_path / "people.csv"), TableData(table="wine")):
        dataset = load_dataset(config, 7, seed)
        assert dataset.codec is not None
        train, heldout = split_frames(config, 7, seed, 1_000)
        for frame, rows in ((train, dataset.train), (heldout, dataset.untrained())):
            decoded = dataset.codec.decode(rows.float(), np.random.default_rng(0))
            for name in frame.select_dtypes("number"):
                np.testing.assert_allclose(
                    np.sort(decoded[name]), np.sort(frame[name]), rtol=1e-4, err_msg=name
                )
        assert len(split_frames(config, 7, seed, 10)[0]) == 10
        learned, same = split_frames(config, 7, seed, 1_000, lambda num: num // 3)
        pd.testing.assert_frame_equal(same, heldout)
        rows = dataset.train[len(dataset.train) // 3 :]  # as a trial is trained on
        decoded = dataset.codec.decode(rows, np.random.default_rng(0))
        for name in learned.select_dtypes("number"):
            np.testing.assert_allclose(
                np.sort(decoded[name]), np.sort(learned[name]), rtol=1e-4, err_msg=name
            )


def test_what_metrics_compare_are_rows_of_the_table(trained: Path) -> None:
    _, pipeline = load_run(trained)
    samples = load_points(trained / "samples.safetensors")
    discrete = [block for block in pipeline.codec.blocks if block.discrete]
    assert {block.column for block in discrete} >= {"job", "smokes", "score"}
    for block in discrete:
        if block.role == "state":
            assert set(np.unique(samples[:, block.start : block.stop])) <= {-1.0, 1.0}
