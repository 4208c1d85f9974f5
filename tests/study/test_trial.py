from itertools import count
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import refused
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.diffusion.likelihood import first_noise
from kan_diffusion.diffusion.sampling import make_scheduler
from kan_diffusion.errors import DataError, RunFolderError
from kan_diffusion.evaluation.metrics import SAMPLE_METRICS
from kan_diffusion.processes import get_process
from kan_diffusion.randomness import torch_generator
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.folder import (
    TrialTakenError,
    claimed,
    load_points,
    load_trial,
    recorded_steps,
)
from kan_diffusion.study.tasks import Task
from kan_diffusion.study.trial import NUM_PANELS, evaluate_run, load_run, record_reverse, run_trial
from kan_diffusion.training import run as training
from make import EVALUATION, study, trial_content, without_clock, written
from short_training import Stop, never


def _trial(seed=0, **changes):
    models = [{"name": "MLP", "family": "mlp", "params": 300}]
    return study(**{"models": models, "seeds": seed + 1, **changes}).trials()[-1]


def _stop(step, loss):
    """Stands for a kill at step 15: nothing handles it."""
    if step >= 15:
        raise Stop


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_trial(_trial(), tmp_path_factory.mktemp("trial") / "new" / "folder", device="cpu")


def test_everything_a_finished_trial_holds(finished):
    folder = finished.folder
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "model_index.json",
        "denoiser/config.json",
        "denoiser/diffusion_pytorch_model.safetensors",
        "curves.parquet",
        finished.samples.name,
        *(f"reverse/{step}.safetensors" for step in (0, 10, 20, 30, 40)),
        "trial.json",
        ".lock",
    }
    curves = pd.read_parquet(folder / "curves.parquet")
    assert curves["step"].tolist() == list(range(1, 41))
    assert np.isfinite(curves["loss"]).all()
    # Cosine decay: the rate ends well below its peak.
    assert curves["learning_rate"].iloc[-1] < 0.02 * curves["learning_rate"].max()
    assert load_points(finished.samples).shape == (100, 2)
    assert recorded_steps(folder) == [0, 10, 20, 30, 40]
    assert load_points(folder / "reverse" / "20.safetensors").shape == (NUM_PANELS, 50, 2)


def test_row_has_flat_keys_and_every_metric_beside_its_real_value(finished):
    row = finished.row
    assert row["data"] == "gaussian-mixture"
    assert row["family"] == "mlp"
    assert abs(int(row["parameters"]) - 300) <= 6
    assert row["error"] is None
    for key in SAMPLE_METRICS:
        assert float(row[key]) >= 0
        assert float(row[f"{key}_real"]) >= 0
    # Hardly trained: worse than perfect in every way that counts.
    assert float(row["excess"]) > 4 * float(row["excess_se"]) > 0
    assert float(row["heldout_loss"]) > float(row["floor"]) > 0
    assert float(row["energy"]) > float(row["energy_real"])
    assert float(row["train_seconds"]) > 0
    levels = [level["excess"] for level in finished.levels]
    assert np.mean(levels) == pytest.approx(row["excess"])


def test_finished_trial_is_read_and_not_run_again_and_another_is_refused(finished):
    before = written(finished.folder)
    again = run_trial(finished.config, finished.folder, on_progress=never)
    assert again == finished
    with refused("holds another run", RunFolderError):
        run_trial(_trial(seed=1), finished.folder)
    assert written(finished.folder) == before
    assert load_trial(finished.folder) == finished


def test_folder_is_a_pipeline_that_draws_in_the_toys_own_units(finished):
    config, pipeline = load_run(finished.folder)
    assert config == finished.config
    assert pipeline.config.columns == ["x", "y"]
    density = config.data.density
    assert pipeline.config.mean == pytest.approx(density.mean.tolist())
    assert pipeline.config.scale == pytest.approx(density.std.tolist())


def test_recorded_reverse_process_goes_from_noise_to_samples(finished):
    config, pipeline = load_run(finished.folder)
    dataset, stream = load_dataset(config.data), ("reverse process", 0, config.data.name)
    shown = {"evaluation": config.evaluation.model_copy(update={"num_drawn": 400})}
    panels = record_reverse(config.model_copy(update=shown), dataset, pipeline)
    assert panels.shape == (NUM_PANELS, 400, 2)
    noise = torch.randn(400, 2, generator=torch_generator(*stream))
    assert torch.equal(panels[0], noise)
    # The pictures are even in time: every tenth of fifty DDIM steps, to the very samples.
    pipeline.scheduler = make_scheduler("ddim", pipeline.process)
    states = {}

    def keep(_, index, timestep, given):
        states[int(timestep) + 1] = given["sample"]

    pipeline(400, 50, generator=torch_generator(*stream), callback_on_step_end=keep)
    num_timesteps = finished.config.process.num_timesteps
    for panel in range(1, NUM_PANELS):
        step_before = num_timesteps - num_timesteps // 50 * (5 * panel - 1)
        assert torch.equal(panels[panel], states[step_before])
    # Of few steps it shows some states twice.
    pipeline.scheduler = make_scheduler("ddpm", pipeline.process)
    few = config.model_copy(update={"sampling": config.sampling.model_copy(update={"steps": 3})})
    panels = record_reverse(few, dataset, pipeline)
    assert len(panels) == NUM_PANELS
    assert len({tuple(panel.flatten().tolist()) for panel in panels}) == 4


def test_seeds_differ_and_share_what_real_points_score(finished, tmp_path):
    other = run_trial(_trial(seed=1), tmp_path, device="cpu")
    assert other.row["excess"] != finished.row["excess"]
    for key in ("floor", "energy_real", "c2st_real"):
        assert other.row[key] == finished.row[key]
    assert recorded_steps(tmp_path) == []


def test_the_likelihood_of_few_rows_is_that_of_each_held_out_row_once():
    dataset, evaluation = load_dataset("iris"), EvaluationConfig(num_noised=100, num_samples=0)
    process = get_process("cosine")
    likely = Task().reference(dataset, process, evaluation, study_seed=0).likely
    assert likely.shape == dataset.heldout.shape
    bound = 5 * first_noise(process) / len(likely) ** 0.5
    torch.testing.assert_close(likely.mean(0), dataset.heldout.mean(0), atol=bound, rtol=0)


def test_stopped_trial_goes_on_to_the_same_end(finished, tmp_path):
    config = finished.config
    with pytest.raises(Stop):
        run_trial(config, tmp_path, device="cpu", on_progress=_stop)
    assert load_trial(tmp_path) is None
    with refused("checkpoint of a run with other settings", RunFolderError):
        run_trial(_trial(seed=1), tmp_path, device="cpu")
    run_trial(config, tmp_path, device="cpu")
    assert trial_content(tmp_path) == trial_content(finished.folder)  # with all samples
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_diverging_trial_is_recorded_with_its_reason(tmp_path):
    config = _trial(models=[{"name": "M", "family": "mlp", "params": 300, "learning_rate": 1e30}])
    result = run_trial(config, tmp_path, device="cpu")
    assert "lower the learning rate" in str(result.row["error"])
    assert "excess" not in result.row
    assert not (tmp_path / "model_index.json").exists()
    assert load_trial(tmp_path) == result
    assert run_trial(config, tmp_path).row == result.row  # finished: not tried again
    with pytest.raises(RunFolderError, match=r"the run in .* failed: the (loss|parameters)"):
        load_run(tmp_path)


def test_run_is_judged_again_to_the_same_numbers(finished):
    row, used = evaluate_run(finished.folder)
    assert "fresh points of 'gaussian-mixture', whose oracle is exact" in used
    assert without_clock(row).items() <= finished.row.items()


def test_run_is_judged_with_another_toy_in_its_own_units(finished, tmp_path):
    other, used = evaluate_run(finished.folder, "two-spirals")
    assert "two-spirals" in used
    assert float(other["energy"]) > 2 * float(finished.row["energy"])
    np.save(tmp_path / "points.npy", np.zeros((40, 2)))
    with refused("'points' cannot judge a model of points; .* its own data or a toy"):
        evaluate_run(finished.folder, str(tmp_path / "points.npy"))


def test_a_toy_by_its_name_has_its_usual_noise_whatever_a_run_was_trained_on(tmp_path):
    noisy = run_trial(_trial(data=[{"toy": "moons", "noise": 0.8}]), tmp_path, device="cpu")
    usual, own = (evaluate_run(tmp_path, data)[0] for data in ("moons", None))
    assert own["floor"] == noisy.row["floor"]
    assert usual["floor"] < 0.8 * own["floor"]


def test_toy_of_other_dimension_is_refused(tmp_path):
    path = tmp_path / "points.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 3)))
    run_trial(_trial(data=[{"path": str(path)}]), tmp_path / "run", device="cpu")
    with pytest.raises(ValueError, match="'moons' is not what the model was trained on"):
        evaluate_run(tmp_path / "run", "moons")
    # Of the file it was trained on, only rows that were held out are used.
    row, used = evaluate_run(tmp_path / "run", str(path))
    assert used == "8 rows of 'points' that were not trained on; no oracle is known"
    # The same rows in another file are not said to be unseen.
    np.save(tmp_path / "again.npy", np.load(path)[::-1])
    _, used = evaluate_run(tmp_path / "run", str(tmp_path / "again.npy"))
    assert used.startswith("40 rows of 'again', which must not have been trained on; no oracle")
    assert (row["oracle"], row["floor"], row["excess"]) == ("none", None, None)


def test_a_trial_ends_at_its_budget_of_time(tmp_path, monkeypatch):
    # The clock is read before and after each step, which therefore takes a hundredth of a second.
    ticks = count()
    clock = SimpleNamespace(perf_counter=lambda: 0.0, process_time=lambda: next(ticks) / 100)
    monkeypatch.setattr(training, "time", clock)
    budget = {"match": "time", "amount": 1.5, "params": 600}
    evaluation = {**EVALUATION, "num_samples": 0, "moments": [0, 0.5]}
    trial = _trial(models=[{"family": "mlp"}], budget=budget, evaluation=evaluation)
    assert trial.training.steps == 40  # seconds, not steps, decide
    result = run_trial(trial, tmp_path, device="cpu")
    assert result.row["steps"] == 150
    assert result.row["train_cpu_seconds"] == pytest.approx(1.5)
    assert recorded_steps(tmp_path) == [0, 75, 150]


def test_a_trial_that_another_process_runs_costs_no_work(tmp_path):
    trial = _trial(data=[{"path": str(tmp_path / "missing.csv")}])
    with refused("no file", DataError):
        run_trial(trial, tmp_path / "run")
    with claimed(tmp_path / "run"), refused("another process is running", TrialTakenError):
        run_trial(trial, tmp_path / "run")
