import json
import re

import pytest
import sympy
import torch

from helpers import randn, refused
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.denoisers.formula import FormulaDenoiser, formula_denoiser
from kan_diffusion.denoisers.library import get_functions
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.formulas.explain import (
    Explained,
    Stage,
    explain_run,
    influences,
    judge_stage,
    outcome,
    remove_stages,
)
from kan_diffusion.formulas.match import EdgeReport, ExplainOptions
from kan_diffusion.processes import get_process
from kan_diffusion.report.study import write_report
from kan_diffusion.study.config import EvaluationConfig
from kan_diffusion.study.folder import load_points, load_trial
from kan_diffusion.study.results.rows import read_runs
from kan_diffusion.study.run import load_study
from kan_diffusion.study.tasks import task_of
from kan_diffusion.study.trial import evaluate_run, load_run
from networks import network

X, Y, ALPHA, SIGMA = (sympy.Symbol(name, real=True) for name in ("x0", "x1", "alpha", "sigma"))
NORMAL = list(
    -(ALPHA**2 * sympy.Matrix([[2, 1], [1, 3]]) + SIGMA**2 * sympy.eye(2)).inv()
    @ (sympy.Matrix([X, Y]) - ALPHA * sympy.Matrix([1, -2]))
)
"""Coordinates of the score of a normal distribution."""
POINTS = torch.linspace(-2, 2, 50)[:, None]
BUDGET = ExplainOptions(
    library=get_functions(["linear", "tanh"]), steps=20, candidates=1, tolerance=0.05,
    tune_steps=20, seconds=2.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(runs):
    """A network that has learned a little about two modes."""
    return runs("readable")


def test_a_network_is_looked_at_as_it_is(run, tmp_path):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    options = ExplainOptions(prune=None, num_samples=0)
    explanation = explain_run(run, tmp_path / "out", options, command="again")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    ((name, network),) = explanation.stages.items()
    expected = load_run(run)[1].denoiser(POINTS, 300).sample
    torch.testing.assert_close(network(POINTS, 300).sample, expected)
    written = json.loads((tmp_path / "out" / "formulas.json").read_text())
    (stage,) = written["standings"]
    assert stage["name"] == name == "network"
    assert stage["loss"] - stage["floor"] > 0
    assert (stage["edges"], stage["metrics"]) == (len(network.edges), {})
    assert (written["score"], written["edges"], written["sentences"]) == (None, [], [])
    assert explanation.views["network"].sigmas == pytest.approx(
        [0.1, 0.3, 0.5, 0.7, 0.9, 0.98], abs=2e-3
    )
    assert explanation.command == "again"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["formulas.json"]


@pytest.fixture(scope="module")
def explained(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("explained")
    said = []
    return out, explain_run(run, out, BUDGET, on_progress=lambda *a: said.append(a)), said


def test_each_stage_is_a_run_that_is_judged_as_its_network_was(run, explained):
    out, explanation, said = explained
    names = list(explanation.stages)
    assert names[:3] == ["network", "simplified", "with formulas"]
    assert [what for phase, what, _ in said if phase == "judging"] == names
    phases = list(dict.fromkeys(phase for phase, _, _ in said))
    assert phases[:2] == ["pruning", "lines"]  # the time may be over for edges and formulas
    assert phases[-2:] == ["judging", "looking"]
    assert all(0 <= done <= 1 for _, _, done in said)
    folders = [out / name.replace(" ", "-") for name in names[1:]]
    for name, folder in zip(names[1:], folders, strict=True):
        denoiser = load_run(folder)[1].denoiser
        assert isinstance(denoiser, FormulaDenoiser if name == "formula" else ReadableDenoiser)
        expected = explanation.stages[name](POINTS, 300).sample
        torch.testing.assert_close(denoiser(POINTS, 300).sample, expected)
        assert len(load_points(load_trial(folder).samples)) > 0
    row, used = evaluate_run(folders[0])
    assert "oracle is exact" in used
    assert row["excess"] > 0
    # Measured on the very draw that the run was measured on: what has not changed scores the same.
    rows = read_runs([run, *folders]).rows
    assert rows["name"].tolist() == ["readable KAN", *(f"readable KAN, {n}" for n in names[1:])]
    standings = explanation.standings
    assert [stage.name for stage in standings] == names
    assert rows["excess"].tolist() == pytest.approx([stage.excess for stage in standings], rel=1e-6)
    assert all(stage.metrics["energy"] > 0 for stage in standings)


@pytest.mark.parametrize("beside", [True, False])
def test_a_stage_has_a_report_though_it_was_not_trained(explained, run, tmp_path, beside):
    out, _, _ = explained
    runs = [run, out / "simplified"] if beside else [out / "simplified"]
    page = write_report(read_runs(runs), tmp_path, "again", runs=True).read_text()
    assert "readable KAN, simplified" in page
    assert ("Training losses" in page) == beside


def test_what_was_found_is_written(explained):
    out, explanation, _ = explained
    written = json.loads((out / "formulas.json").read_text())
    assert written["sentences"] == list(explanation.sentences)
    excesses = [stage.excess for stage in explanation.standings]
    assert [stage["excess"] for stage in written["standings"]] == pytest.approx(excesses)
    assert len(written["edges"]) == len(explanation.stages["with formulas"].edges)
    formula = explanation.stages.get("formula")
    assert (formula is None) == (written["score"] is None) == (not (out / "formula.py").exists())


def test_too_many_edges_get_no_formulas(run, tmp_path):
    options = ExplainOptions(prune=0.0, max_edges=1, tune_steps=1, num_samples=0)
    explanation = explain_run(run, tmp_path, options)
    assert list(explanation.stages) == ["network", "simplified"]
    assert "more than 1" in explanation.sentences[0]
    assert "sparsify" in explanation.sentences[0]


def _edge(kind, r2, reason=""):
    return EdgeReport("x0", "h1.0", kind, False, r2, reason)


@pytest.mark.parametrize(
    ("edges", "levels", "words"),
    [
        ([_edge("curve", 0.8, "below"), _edge("tanh", 1.0)], (None, True),
         "There is no short formula, as a complete search says: 1 of 2 .* 0.800"),
        ([_edge("curve", None, "not tried")], (None, True),
         "The search was not finished: 1 of 1 edges .* give it more seconds"),
        ([_edge("tanh", 1.0)], (None, True), "no short formula, as a complete search says: every"),
        ([_edge("tanh", 1.0)], (None, False), "The search was not finished: .* seconds"),
        ([_edge("tanh", 1.0)], None, "For flow matching there is no search"),
        ([_edge("tanh", 1.0)], ([-X], True), "One formula .* the score of a normal distribution"),
        ([_edge("tanh", 1.0)], ([sympy.tanh(X)], True), "One formula .* 153 parameters.$"),
        ([_edge("tanh", 1.0)], ([sympy.tanh(X)], False),
         "153 parameters. The search was not finished .* a better formula"),
        # Of a mean and a covariance, in two coordinates; and linear ones that are of none.
        ([_edge("tanh", 1.0)], (NORMAL, True), "the score of a normal distribution.$"),
        ([_edge("tanh", 1.0)], ([NORMAL[0] + Y / 2, NORMAL[1]], True), "153 parameters.$"),
        ([_edge("tanh", 1.0)], ([-2 * X], True), "153 parameters.$"),
        ([_edge("tanh", 1.0)], ([1 - X], True), "153 parameters.$"),
        ([_edge("tanh", 1.0)], ([X], True), "153 parameters.$"),
        ([_edge("tanh", 1.0)], ([sympy.Integer(1)], True), "153 parameters.$"),
    ],
)  # fmt: skip
def test_an_explanation_says_whether_there_is_no_formula_or_the_search_was_not_finished(
    edges, levels, words
):
    stages = dict.fromkeys(("network", "simplified", "with formulas"))
    if levels is not None and levels[0] is not None:
        stages["formula"] = formula_denoiser(levels[0], {}, get_process("cosine"))
    scores = {name: Stage(name, 4, 153, 0.5, None, None) for name in stages}
    said = outcome(Explained(stages, edges, levels and levels[1]), scores, ExplainOptions())
    assert re.search(words, said)


def test_networks_without_edges_to_read_are_refused(runs, tmp_path):
    trials = {trial.row["family"]: trial.folder for trial in load_study(runs("study")).trials}
    for family, message in (
        ("mlp", "cannot be taken apart: only KANs have edges to read; train family 'readable-kan'"),
        ("kan", "edges of gated .* not read one at a time; train family 'readable-kan'"),
    ):
        with refused(message):
            explain_run(trials[family], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_explanation_is_not_written_into_a_run(run):
    with refused(f"'{run}' holds a run; give the explanation a folder of its own"):
        explain_run(run, run)


@pytest.fixture
def judge(run, tmp_path):
    """Judges a formula as a stage of the run."""
    config, pipeline = load_run(run)
    evaluation = EvaluationConfig(num_noised=200, num_samples=50, num_real_pairs=1, num_drawn=5)
    config = config.model_copy(update={"evaluation": evaluation})
    dataset = load_dataset(config.data, 0, 0)
    shared = task_of(config.data).reference(dataset, config.process, evaluation, 0)

    def judged(score):
        formula = formula_denoiser([score], {}, config.process)
        stage = type(pipeline).from_pipe(pipeline, denoiser=formula)
        return judge_stage("formula", stage, config, dataset, shared, tmp_path)

    return judged


def test_a_stage_that_cannot_be_sampled_is_judged_by_its_loss(judge, tmp_path):
    out, good = tmp_path, judge(-X)
    assert good.trouble == ""
    assert good.metrics["energy"] > 0
    assert len(load_points(load_trial(out / "formula").samples)) == 50
    # Only stages are removed.
    (out / "formula").rename(out / "simplified")
    (out / "with-formulas").mkdir()
    remove_stages(out)
    assert sorted(path.name for path in out.iterdir()) == ["simplified", "with-formulas"]
    bad = judge(X**5)
    assert "became infinite or NaN" in bad.trouble
    assert bad.metrics == {}
    # Numbers that do not need samples are there, in as much detail.
    assert not load_trial(out / "formula").samples.exists()
    assert read_runs([out / "formula"]).rows["excess"].tolist() == [bad.excess]
    assert bad.excess > good.excess > 0
    # Of one that can be sampled, but whose flow from data to noise leaves every bound:
    stage = judge(-X - X**3 / 5)
    assert stage.trouble == ""
    assert stage.metrics["energy"] > 0
    assert "nll" not in stage.metrics


APART = [(0, 0), (1, 1)]


@pytest.mark.parametrize(
    ("layers", "expected", "settings"),
    [
        ([APART, APART], [[1, 0], [0, 1]], {}),
        # x0 also reaches the second hidden unit, and thereby the second output.
        ([[*APART, (0, 1)], APART], [[1, 0], [1, 1]], {}),
        # The third input is the time, which is of no coordinate.
        ([[*APART, (2, 0), (2, 1)], APART], [[1, 0], [0, 1]], {}),
        # Crossed over twice; a unit that nothing leaves; an output that nothing enters.
        ([[(0, 1), (1, 0)]] * 2, [[1, 0], [0, 1]], {}),
        ([APART, [(0, 0)]], [[1, 0], [0, 0]], {}),
        # Features of a coordinate: x0, x1, cos x0, cos x1, sin x0, sin x1, t.
        ([[(4, 1)]], [[0, 0], [1, 0]], {"num_input_frequencies": 1}),
    ],
)
def test_influences_follow_the_edges(layers, expected, settings):
    edges = [[(i, o, "tanh", False) for i, o in layer] for layer in layers]
    denoiser = network(edges, [2] * (len(layers) - 1), **settings)
    jacobian = torch.autograd.functional.jacobian(
        lambda point: denoiser(point[None], 30).sample[0], randn(2)
    )
    assert influences(denoiser).astype(int).tolist() == expected
    assert (jacobian != 0).int().tolist() == expected  # they are what moves the outputs
