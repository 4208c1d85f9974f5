import json

import numpy as np
import pytest
import sympy
import torch

from helpers import randn, refused
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.denoisers.formula import FormulaDenoiser, formula_denoiser
from kan_diffusion.denoisers.library import get_functions
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.formulas.context import make_context
from kan_diffusion.formulas.explain import (
    ExplainOptions,
    StageJudge,
    explain_run,
    influences,
    remove_stages,
)
from kan_diffusion.formulas.match import SearchOptions
from kan_diffusion.report.gather import runs_contents
from kan_diffusion.report.study import write_report
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.folder import SAMPLES, load_points
from kan_diffusion.study.measure import evaluate_run, load_run
from kan_diffusion.study.results.rows import read_runs
from kan_diffusion.study.run import load_study
from kan_diffusion.study.tasks import task_of
from networks import network

X = sympy.Symbol("x0", real=True)
POINTS = torch.linspace(-2, 2, 50)[:, None]
BUDGET = SearchOptions(
    library=get_functions(["linear", "tanh"]), seconds=2.0, steps=20, candidates=1, tolerance=0.05
)


@pytest.fixture(scope="module")
def run(runs):
    """A network that has learned a little about two modes."""
    return runs("readable")


def test_a_network_is_looked_at_as_it_is(run, tmp_path):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    options = ExplainOptions(prune=None, num_samples=0, levels=(10, 700))
    explanation, explained = explain_run(run, tmp_path / "out", options, command="again")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert list(explained.stages()) == ["network"]
    _, pipeline = load_run(run)
    expected = pipeline.denoiser(POINTS, 300).sample
    torch.testing.assert_close(explained.network(POINTS, 300).sample, expected)
    written = json.loads((tmp_path / "out" / "formulas.json").read_text())
    (standing,) = written["standings"]
    assert standing["name"] == "network"
    assert standing["loss"] - standing["floor"] > 0
    assert (standing["edges"], standing["metrics"]) == (len(explained.network.edges), {})
    assert (written["score"], written["edges"], written["levels"]) == (None, [], [])
    assert [level.timestep for level in explanation.network.levels] == [10, 700]
    assert explanation.command == "again"
    assert not explanation.samples
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["formulas.json"]


@pytest.fixture(scope="module")
def found(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("explained")
    told = []
    options = ExplainOptions(search=BUDGET, tune_steps=20, level_seconds=2.0)
    explanation, explained = explain_run(run, out, options, on_progress=lambda *a: told.append(a))
    return out, explanation, explained, told


def test_each_stage_is_a_run(found):
    out, explanation, explained, told = found
    names = list(explained.stages())
    assert names[:3] == ["network", "simplified", "with formulas"]
    assert [standing.name for standing in explanation.standings] == names
    assert [what for phase, what, _ in told if phase == "judging"] == names
    phases = list(dict.fromkeys(phase for phase, _, _ in told))
    assert phases[:3] == ["pruning", "lines", "edges"]  # no curve may be left for formulas
    assert phases[-2:] == ["judging", "looking"]
    assert all(0 <= done <= 1 for _, _, done in told)
    for name, denoiser in list(explained.stages().items())[1:]:
        folder = out / name.replace(" ", "-")
        config, pipeline = load_run(folder)
        assert config.model.name.endswith(f", {name}")
        wanted = FormulaDenoiser if name == "formula" else ReadableDenoiser
        assert isinstance(pipeline.denoiser, wanted)
        expected = denoiser(POINTS, 300).sample
        torch.testing.assert_close(pipeline.denoiser(POINTS, 300).sample, expected)
        row, used = evaluate_run(folder)
        assert "oracle is exact" in used
        assert row["excess"] > 0
    assert all(0 < len(drawn) <= 1000 for drawn in explanation.samples.values())
    assert list(explanation.samples) == ["real", *names]


def test_stages_stand_beside_their_network_in_a_report(run, found, tmp_path):
    out, explanation, explained, _ = found
    names = [name for name in explained.stages() if name != "network"]
    folders = [run, *(out / name.replace(" ", "-") for name in names)]
    contents = runs_contents(read_runs(folders), "again")
    excess = dict(zip(contents.results.rows["name"], contents.results.rows["excess"], strict=True))
    assert list(excess) == ["readable KAN", *(f"readable KAN, {name}" for name in names)]
    # Measured on the very draw that the run was measured on: what has not changed scores the same.
    for standing, value in zip(explanation.standings, excess.values(), strict=True):
        assert value == pytest.approx(standing.excess, rel=1e-6)
    assert set(contents.samples) == {("two-modes", name) for name in excess}
    assert set(contents.curves["name"]) == {"readable KAN"}  # the others were not trained
    assert set(contents.excess_by_level["name"]) == set(excess)
    page = write_report(contents, tmp_path, figures=False).read_text(encoding="utf-8")
    assert f"readable KAN, {names[-1]}" in page


def test_what_is_written_is_what_was_found(found):
    out, explanation, explained, _ = found
    written = json.loads((out / "formulas.json").read_text())
    assert written["sentences"] == list(explanation.sentences)
    assert len(written["edges"]) == len(explained.edges) == len(explained.simplified.edges)
    for standing in written["standings"]:
        assert standing["metrics"]["energy"] > 0
        assert standing["excess"] > 0
    namespace = {}
    exec((out / "network.py").read_text(), namespace)
    with torch.no_grad():
        expected = explained.with_formulas(POINTS, 300).sample.numpy()
    found_ = namespace["prediction"](POINTS.double().numpy(), 300)
    np.testing.assert_allclose(found_, expected, atol=1e-4, rtol=1e-4)


def test_too_many_edges_get_no_formulas(run, tmp_path):
    told = []
    search = SearchOptions(max_edges=1)
    options = ExplainOptions(prune=0.0, search=search, tune_steps=1, num_samples=0)
    explanation, explained = explain_run(
        run, tmp_path, options, on_progress=lambda _, what, __: told.append(what)
    )
    assert list(explained.stages()) == ["network", "simplified"]
    (reason,) = [what for what in told if "more than 1" in what]
    assert "with prune" in reason
    assert f"{reason}." in explanation.sentences


def test_networks_without_edges_to_read_and_levels_that_are_none_are_refused(runs, run, tmp_path):
    with refused("'mlp': only KANs have edges to read; train family 'readable-kan'"):
        explain_run(runs("points"), tmp_path / "out")
    (kan,) = (t for t in load_study(runs("study")).trials[:2] if t.row["family"] == "kan")
    with refused("'kan': edges of gated .* not read one at a time; train family 'readable-kan'"):
        explain_run(kan.folder, tmp_path / "out")
    for timestep in (-1, 1000):
        options = ExplainOptions(prune=None, num_samples=0, levels=(10, timestep))
        with refused(f"timestep {timestep} is not one of .* 999"):
            explain_run(run, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def judge(run):
    """A judge of stages of the run, and a function that has it judge a formula."""
    config, pipeline = load_run(run)
    evaluation = EvaluationConfig(num_noised=200, num_samples=50, num_real_pairs=1, num_drawn=5)
    config = config.model_copy(update={"evaluation": evaluation})
    dataset = load_dataset(config.data, 0, 0)
    shared = task_of(config.data).reference(dataset, config.process, evaluation, 0)
    made = StageJudge(config, pipeline, make_context(dataset, config.process, 0), shared)
    return made, lambda score: made.judge("formula", formula_denoiser([score], {}, config.process))


def test_a_stage_that_cannot_be_sampled_is_judged_by_its_loss(judge, tmp_path):
    judge_, judged = judge
    good = judged(-X)
    assert good.standing.trouble == ""
    assert good.standing.metrics["energy"] > 0
    judge_.save(good, tmp_path)
    assert len(load_points(tmp_path / "formula" / SAMPLES)) == 50
    # Only stages are removed.
    (tmp_path / "formula").rename(tmp_path / "simplified")
    (tmp_path / "with-formulas").mkdir()
    remove_stages(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["simplified", "with-formulas"]
    bad = judged(X**5)
    assert "became infinite or NaN" in bad.standing.trouble
    assert bad.standing.metrics == {}
    # Numbers that do not need samples are there, in as much detail.
    assert bad.row["excess"] > good.row["excess"] > 0
    assert (bad.standing.loss, bad.standing.floor) == (bad.row["heldout_loss"], bad.row["floor"])
    assert len(bad.levels) == judge_.config.evaluation.num_levels
    judge_.save(bad, tmp_path)
    contents = runs_contents(read_runs([tmp_path / "formula"]), "")
    assert contents.samples == {}
    assert contents.results.rows["excess"].tolist() == [bad.row["excess"]]


def test_a_likelihood_that_is_no_number_is_left_out(judge):
    # It can be sampled, but the flow from data to noise leaves every bound.
    stage = judge[1](-X - X**3 / 5)
    assert (stage.standing.trouble, stage.row["nll"]) == ("", None)
    assert stage.standing.metrics["energy"] > 0


def _reach(*layers, **settings):
    edges = [[(i, o, "tanh", False) for i, o in layer] for layer in layers]
    denoiser = network(edges, [2] * (len(layers) - 1), **settings)
    jacobian = torch.autograd.functional.jacobian(
        lambda point: denoiser(point[None], 30).sample[0], randn(2)
    )
    reached = influences(denoiser).tolist()
    assert (jacobian != 0).tolist() == reached  # they are what moves the outputs
    return reached


def test_influences_follow_the_edges():
    apart = [(0, 0), (1, 1)]
    assert _reach(apart, apart) == [[True, False], [False, True]]
    # x0 also reaches the second hidden unit, and thereby the second output.
    assert _reach([*apart, (0, 1)], apart) == [[True, False], [True, True]]
    # The third input is the time, which is of no coordinate.
    assert _reach([*apart, (2, 0), (2, 1)], apart) == [[True, False], [False, True]]
    # Crossed over twice; a unit that nothing leaves; an output that nothing enters.
    assert _reach([(0, 1), (1, 0)], [(0, 1), (1, 0)]) == [[True, False], [False, True]]
    assert _reach([(0, 0), (1, 1)], [(0, 0)]) == [[True, False], [False, False]]
    # Features of a coordinate are of that coordinate: x0, x1, cos x0, cos x1, sin x0, sin x1, t.
    assert _reach([(4, 1)], num_input_frequencies=1) == [[False, False], [True, False]]
