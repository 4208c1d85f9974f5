import pytest

from html_page import Page
from kan_diffusion.report.study import MOST_BYTES, write_report
from kan_diffusion.study.config import EvaluationConfig, SamplingConfig, read_preset
from kan_diffusion.study.run import load_study, run_study
from make import EVALUATION
from one_by_one import one_by_one


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
    folder = tmp_path_factory.mktemp("report") / "notebook"
    run_study(config, folder, executor=one_by_one)
    return load_study(folder)


def test_the_notebooks_study_has_every_figure_and_its_warnings(notebook_study, tmp_path):
    path = write_report(notebook_study, tmp_path, "kan-diffusion compare notebook")
    text = path.read_text()
    page = Page(text)
    assert "could not be drawn" not in page.said
    for name in ("KAN 32-32-32", "MLP 32-32-32", "KAN 32"):
        assert name in page.said
    for words in (
        "92.5% of the signal is left", "Huber loss does not aim at the posterior mean",
        "kan-diffusion compare notebook", "From noise to samples",
    ):  # fmt: skip
        assert words in page.said
    assert path.stat().st_size < MOST_BYTES
    again = write_report(notebook_study, tmp_path, "kan-diffusion compare notebook")
    assert again.read_text() == text
