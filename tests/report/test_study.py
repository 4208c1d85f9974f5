import re

import numpy as np
import pandas as pd
import pytest

from helpers import refused
from html_page import Page
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.errors import RunFolderError
from kan_diffusion.evaluation.denoising import draw_noised_points, floor
from kan_diffusion.files import digest, sealed_json
from kan_diffusion.randomness import torch_generator
from kan_diffusion.report.charts import smoothed_curve
from kan_diffusion.report.study import MOST_BYTES, curves_of, floor_error, levels_of, write_report
from kan_diffusion.study.config import read_preset
from kan_diffusion.study.results.rows import Results, read_runs
from kan_diffusion.study.results.verdicts import decide
from kan_diffusion.study.results.wording import overall, say
from kan_diffusion.study.run import load_study
from runs import copied
from synthetic_study import FAILED, make_rows, make_study

DATAS = ("swiss-roll", "checkerboard", "moons")


@pytest.fixture(scope="module")
def many():
    """A study of nine models on three data sets, of which the rows alone are there."""
    rows = make_rows(DATAS, num_seeds=7, budget=2_300, without_oracle=("moons",))
    return make_study(rows, title="Many <models>", question="Which & why?")


@pytest.fixture(scope="module")
def text(many, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    written = write_report(many, folder, "again & again").read_text()
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    return written


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.fixture(scope="module")
def few():
    """A study of two models on one toy, of which the rows alone are there, with hostile names."""
    rows = make_rows(("moons",), ("KAN", "MLP"), 2, budget=2_300, failed=False)
    named = rows.replace({"KAN": '"><script>alert(1)</script>'})
    return make_study(named, title="<script>2</script>")


@pytest.fixture(scope="module")
def whole(few, tmp_path_factory):
    """The page of that study."""
    return write_report(few, tmp_path_factory.mktemp("few")).read_bytes()


@pytest.fixture
def changed(runs, tmp_path):
    """A study to be changed at will."""
    return copied(runs("study"), tmp_path / "study")


def test_the_page_begins_with_the_verdicts_and_has_a_part_for_each_data_set(many, text, page):
    decision = decide(Results.of(many.rows))
    places = [page.said.index(part) for part in ("Which & why?", overall(decision)[:40])]
    places += [page.said.index(say(verdict)[:60]) for verdict in decision.verdicts.values()]
    assert places == sorted(places)
    badges = re.findall(r'<li><span class="badge (\w+)">(.*?)</span>', text)
    assert [said for _, said in badges] == [v.outcome for v in decision.verdicts.values()]
    assert {f"Models, {data}" for data in DATAS} <= set(page.tables)
    forests = [f"{m} of each model, {d}" for d, m in
               zip(DATAS, ("Excess", "Excess", "Held-out loss"), strict=True)]  # fmt: skip
    assert page.said.count("Best KAN against best MLP on each data set") == 1
    assert all(forest in page.said for forest in forests)
    assert [link for link in page.links if link in DATAS] == list(DATAS)


def test_the_page_says_what_failed_and_how_to_run_it_again(page, many):
    assert "1 trial failed and is left out of every mean:" in page.said
    assert FAILED in page.said
    assert "again & again" in page.said
    assert "num_noised: 200" in page.said  # the settings
    _, *lines = page.tables["All trials"]
    assert len(lines) == len(many.rows)
    assert "No oracle is known for" not in page.said  # that of a toy is


def test_models_that_cannot_be_compared_are_ranked_without_a_badge(tmp_path):
    rows = make_rows(("moons",), ("MLP", "gated MLP", "spline-MLP"), 6, failed=False)
    text = write_report(make_study(rows), tmp_path, figures=False).read_text()
    assert 'class="badge' not in text
    assert "so no verdict." in text
    assert "<nav" not in text
    assert Page(text).figures == []


def test_columns_that_are_not_shown_are_not_explained(page, tmp_path):
    told = ("Excess: mean over t", "NLL: negative", "“− best MLP”: paired", "“real against real”")
    assert all(words in page.said for words in told)
    rows = make_rows(("moons",), ("KAN",), 2, failed=False, without_oracle=("moons",))
    few = rows.drop(columns=[name for name in rows if "nll" in name or name.endswith("_real")])
    said = Page(write_report(make_study(few), tmp_path, figures=False).read_text()).said
    assert "Means over seeds" in said
    assert not any(words in said for words in told)


def test_rows_alone_make_a_page_and_so_does_a_study_in_which_all_failed(tmp_path):
    rows = make_rows(("moons",), ("KAN",), 1, failed=False).assign(error="out of memory")
    page = Page(write_report(make_study(rows), tmp_path).read_text())
    assert page.figures == []
    assert "moons: no model finished half of its seeds." in page.said
    assert "out of memory" in page.said


def test_every_figure_of_a_study_is_in_its_page_once(runs, tmp_path):
    study = load_study(runs("study"))
    path = write_report(study, tmp_path, "again")
    page, text = Page(path.read_text()), path.read_text()
    kinds = (
        "Excess of each model, ", "Excess by noise level, ", "Training losses, ",
        "Samples beside real ones, ",
    )  # fmt: skip
    titles = re.findall(r"<title>(.*?)</title>", text)[1:]
    drawn = [f"{kind}{data.name}" for data in study.config.data for kind in kinds]
    assert sorted(drawn) == sorted(title for title in titles if title in drawn)
    assert "could not be drawn" not in page.said
    assert path.stat().st_size < 800_000
    assert write_report(study, tmp_path, "again").read_text() == text
    assert "This is a first look: models were judged quickly" in page.said
    assert "A full judgement judges them again and trains none of them again." in page.said
    assert "2 seeds a model: intervals are wide, and an exact paired test needs more" in page.said


def test_a_process_that_keeps_signal_and_the_huber_loss_are_warned_of(tmp_path):
    rows = make_rows(("moons",), ("KAN",), 2, failed=False)
    study = make_study(rows, process=read_preset("notebook").process)
    said = Page(write_report(study, tmp_path, figures=False).read_text()).said
    assert "92.5% of the signal is left" in said
    assert "Huber loss does not aim at the posterior mean" in said


def test_the_player_shows_the_models_after_training_from_one_noise(runs, tmp_path):
    trials = read_runs([runs("readable")])
    page = Page(write_report(trials, tmp_path, "again", runs=True).read_text())
    (content,) = page.data
    assert [panel["title"] for panel in content["panels"]] == ["readable KAN", "exact denoiser"]
    assert content["labels"] == [f"t = {k / 10:.1f} T" for k in range(10, -1, -1)]
    first, other = (panel["places"][:40] for panel in content["panels"])
    assert first == other
    assert "Environment" not in page.said  # where runs were trained is not known
    assert "steps 20" in page.said


def test_losses_levels_and_the_floors_error_are_those_of_the_trials(runs):
    study = load_study(runs("study"))
    curves, levels = curves_of(study.trials), levels_of(study.trials)
    for trial in study.trials[:2]:
        raw = pd.read_parquet(trial.folder / "curves.parquet")
        expected = smoothed_curve(raw["step"].to_numpy(), raw["loss"].to_numpy())
        read = curves[trial.row["name"]]
        assert any(np.array_equal(one, expected) for one in read)
    excess = levels.groupby("name")["excess"].mean()
    assert excess["KAN"] == pytest.approx(
        np.mean([t.row["excess"] for t in study.trials if t.row["name"] == "KAN"]), rel=1e-3
    )
    # Over many draws of so many points the floor spreads as is said.
    trial = study.trials[0]
    dataset = load_dataset(trial.config.data, 0, 0)
    num, process = trial.config.judging.num_noised, trial.config.process
    draws = (
        draw_noised_points(dataset, process, num, torch_generator("floors", str(k)))
        for k in range(100)
    )
    spread = 1.96 * np.std([floor(draw, process) for draw in draws])
    assert floor_error(trial, dataset) == pytest.approx(spread, rel=0.25)


def test_a_page_is_never_larger_than_what_is_promised(few, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("kan_diffusion.report.study.MOST_BYTES", len(whole) - 1)
    path = write_report(few, tmp_path)
    assert path.stat().st_size < len(whole)
    assert Page(path.read_text()).figures == []  # they go first, all numbers stay
    mlp = few.rows[few.rows["name"] == "MLP"]
    rows = pd.concat([mlp.assign(seed=mlp["seed"] + 2 * k) for k in range(501)])
    large = make_study(rows.assign(trial=[f"{k:032x}" for k in range(len(rows))]))
    path = write_report(large, tmp_path, figures=False)
    assert path.stat().st_size < MOST_BYTES
    page = Page(path.read_text())
    assert len(page.tables["All trials"]) == 1_001
    assert f"The first 1,000 of {len(rows):,} rows; all are in results.parquet" in page.said


def test_the_environment_is_that_of_the_run(changed, tmp_path):
    study, path = load_study(changed), changed / "environment.json"
    path.write_bytes(sealed_json({"version": 1, "processor": "an abacus"}, {}))
    with refused("has no digest of 'study.yaml'; move .* or run the study again", RunFolderError):
        write_report(study, tmp_path, figures=False)
    digests = {name: digest(changed / name) for name in ("study.yaml", "results.parquet")}
    path.write_bytes(sealed_json({"version": 1, "processor": "an abacus"}, digests))
    assert "an abacus" in write_report(study, tmp_path, figures=False).read_text()


def test_damaged_files_of_a_trial_are_named(changed, tmp_path):
    study = load_study(changed)
    trial = study.trials[0]
    for path, figures in ((trial.folder / "curves.parquet", False), (trial.samples, True)):
        kept = path.read_bytes()
        for damage in (lambda path=path: path.write_bytes(b"no"), path.unlink):
            damage()
            with refused(f"{path.name}' cannot be read", RunFolderError):
                write_report(study, tmp_path, figures=figures)
        path.write_bytes(kept)


def test_what_names_hold_cannot_break_the_page(whole):
    text = whole.decode()
    assert text.count("<script>") == 1
    Page(text)  # whose parts are closed
