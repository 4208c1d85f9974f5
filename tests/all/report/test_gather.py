import numpy as np
import pytest

from html_page import Page
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.processes import get_process
from kan_diffusion.report.gather import report_contents
from kan_diffusion.report.study import write_report
from kan_diffusion.study.config import EvaluationConfig, SamplingConfig, read_preset
from kan_diffusion.study.run import load_study, run_study
from make import EVALUATION, study
from one_by_one import one_by_one

SHORT = {"steps": 20, "batch_size": 64}
MLP = {"name": "MLP", "family": "mlp", "params": 300}


def ran(config, folder):
    run_study(config, folder, executor=one_by_one)
    return load_study(folder)


@pytest.fixture(scope="module")
def notebook_study(tmp_path_factory):
    """The notebook's experiment with 200 points, 12 epochs of two batches and 10 sampling steps."""
    config = read_preset("notebook")
    (data,) = config.data
    config = config.model_copy(
        update={
            "data": (data.model_copy(update={"num_points": 200}),),
            "training": config.training.model_copy(update={"batch_size": 128, "steps": 24}),
            "sampling": SamplingConfig(scheduler="ddpm", steps=10),
            "evaluation": EvaluationConfig(**EVALUATION),
        }
    )
    return ran(config, tmp_path_factory.mktemp("report") / "notebook")


def test_report_holds_every_picture_of_the_notebook(notebook_study):
    contents = report_contents(notebook_study, "kan-diffusion compare notebook")
    page = write_report(contents, notebook_study.folder)
    models = ["KAN 32-32-32", "MLP 32-32-32", "KAN 32"]
    figures = {path.stem for path in (notebook_study.folder / "figures").glob("*.png")}
    kinds = ("data", "corruption", "samples", "loss", "metrics")
    assert figures >= {
        *(f"{kind}-swiss-roll" for kind in kinds), "forest", "excess-by-level",
        *(f"reverse-swiss-roll-{name.lower().replace(' ', '-')}" for name in models),
    }  # fmt: skip
    read = Page(page.read_text())
    assert len(read.images) == len(figures) + 2  # of what moves there are stills
    assert all(load.startswith("data:image/") for load in read.loads)
    text = " ".join(read.text)
    assert "could not be drawn" not in text
    assert "92.5% of the signal is left" in text
    assert "Huber loss does not aim at the posterior mean" in text
    assert "kan-diffusion compare notebook" in text
    assert all(name in text for name in models)


def test_epochs_and_the_forward_process_are_the_notebooks(notebook_study):
    contents = report_contents(notebook_study, "again")
    moments = contents.trajectories["swiss-roll", "KAN 32"]
    labels = ["epoch 0", "epoch 3", "epoch 6", "epoch 9", "epoch 12"]
    assert [label for label, _ in moments] == labels
    settings = dict(contents.settings)
    assert settings["training"].startswith("steps: 24, batch_size: 128, batches: epochs")
    panels = contents.corruption["swiss-roll"]
    assert [time for time, _ in panels] == pytest.approx(np.linspace(0, 1, 11))
    np.testing.assert_array_equal(panels[0][1], contents.originals["swiss-roll"])
    alpha, sigma = get_process("notebook").levels()
    noise = (panels[-1][1] - float(alpha[-1]) * panels[0][1]) / float(sigma[-1])
    assert abs(noise.mean()) < 0.5
    assert noise.std() == pytest.approx(1, abs=0.3)
    # Step 125 of 250 with the very same noise.
    expected = float(alpha[124]) * panels[0][1] + float(sigma[124]) * noise
    np.testing.assert_allclose(panels[5][1], expected, atol=1e-9)


def test_originals_are_points_no_model_was_trained_on(tmp_path):
    path = tmp_path / "table.npy"
    np.save(path, np.random.default_rng(0).normal([5, -5, 0], [1, 2, 3], (60, 3)))
    # In epochs, whose length a file does not say.
    data, training = {"path": str(path), "holdout": 0.5}, {**SHORT, "batches": "epochs"}
    results = ran(study(data=[data], models=[MLP], training=training), tmp_path / "run")
    contents = report_contents(results, "again")
    assert dict(contents.settings)["training"].startswith("steps: 20, batch_size: 64")
    dataset = load_dataset(results.config.data[0], results.config.seed, 0)
    assert len(contents.originals["table"]) == 30
    heldout = set(map(tuple, dataset.heldout.numpy()))
    assert set(map(tuple, contents.originals["table"])) == heldout
    assert any("No oracle is known for" in line for line in contents.warnings)
    assert not any("does not reach noise" in line for line in contents.warnings)
    assert contents.columns["table"] == ["column_1", "column_2", "column_3"]


def test_study_in_which_everything_failed_is_reported(tmp_path):
    results = ran(study(models=[{**MLP, "learning_rate": 1e30}], training=SHORT), tmp_path)
    page = write_report(report_contents(results, "again"), tmp_path)
    assert "lower the learning rate" in page.read_text()
