"""What diffusers asks of pipelines; `family_contract` has what it asks of models."""

import copy

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from family_contract import same_samples, stirred
from helpers import refused, seeded
from kan_diffusion import PointDiffusionPipeline, get_process, make_scheduler


def _pipeline(process="cosine"):
    denoiser = stirred("full-kan", num_train_timesteps=1000)
    units = {"mean": [5.0, -1.0], "scale": [2.0, 0.5], "columns": ["a", "b"]}
    return PointDiffusionPipeline(denoiser, get_process(process), **units)


def _samples(pipeline, **options):
    return pipeline(4, 3, generator=seeded(0), **options).samples


def _same(one, other):
    for key in ("process", "mean", "scale", "columns"):
        assert one.config[key] == other.config[key]
    same_samples(one, other)


def test_a_saved_pipeline_is_read_by_name_in_a_dtype_and_with_parts_of_ones_own(tmp_path):
    pipeline = _pipeline()
    pipeline.save_pretrained(tmp_path)
    by_name = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(by_name) is PointDiffusionPipeline
    _same(by_name, pipeline)
    read = PointDiffusionPipeline.from_pretrained(tmp_path, dtype=torch.float64)
    assert read.denoiser.dtype == read.dtype == torch.float64
    assert _samples(read).dtype == torch.float64
    parts = {"scheduler": make_scheduler("ddim", pipeline.process), "denoiser": stirred("mlp")}
    own = PointDiffusionPipeline.from_pretrained(tmp_path, **parts)
    assert own.denoiser is parts["denoiser"]
    assert isinstance(own.scheduler, DDIMScheduler)


def test_a_pipeline_moves_between_dtypes_and_devices():
    pipeline = _pipeline()
    expected = _samples(pipeline)
    assert pipeline.to(torch.float64) is pipeline
    assert {p.dtype for p in pipeline.denoiser.parameters()} == {torch.float64}
    assert pipeline.dtype == torch.float64
    # The noise is drawn in the dtype of the denoiser.
    assert _samples(pipeline).shape == expected.shape
    pipeline.to("cpu", torch.float32)
    assert pipeline.device == torch.device("cpu")
    torch.testing.assert_close(_samples(pipeline), expected)
    _same(copy.deepcopy(pipeline), pipeline)


@pytest.mark.parametrize("process", ["cosine", "flow"])
def test_a_pipeline_is_made_of_the_parts_of_another(process):
    pipeline = _pipeline(process=process)
    assert set(pipeline.components) == {"denoiser"}
    twin = PointDiffusionPipeline.from_pipe(pipeline)
    assert twin is not pipeline
    assert twin.denoiser is pipeline.denoiser
    _same(twin, pipeline)
    moved = PointDiffusionPipeline.from_pipe(pipeline, mean=[0.0, 0.0])
    shift = torch.tensor([5.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(_samples(moved) + shift, _samples(pipeline))


@pytest.mark.parametrize(("process", "other"), [("cosine", "flow"), ("flow", "cosine")])
def test_a_scheduler_of_the_other_kind_is_refused(process, other, tmp_path):
    pipeline = _pipeline(process=process)
    theirs = get_process(other).scheduler()
    pipeline.save_pretrained(tmp_path)
    pipeline.scheduler = theirs
    for made in (
        pipeline,
        PointDiffusionPipeline.from_pretrained(tmp_path, scheduler=theirs),
        PointDiffusionPipeline.from_pipe(_pipeline(process=process), scheduler=theirs),
    ):
        with refused(r"was trained for (diffusion|flow matching) and .* make_scheduler"):
            _samples(made)


def test_sampling_leaves_a_model_in_its_mode_and_shows_a_bar_when_told(capsys):
    pipeline = _pipeline()
    for mode in (False, True):
        pipeline.denoiser.train(mode)
        _samples(pipeline)
        assert pipeline.denoiser.training == mode
        assert capsys.readouterr().err == ""

    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _samples(pipeline, callback_on_step_end=fail)
    assert pipeline.denoiser.training
    capsys.readouterr()
    pipeline.set_progress_bar_config(disable=False)
    _samples(pipeline)
    assert "3/3" in capsys.readouterr().err
