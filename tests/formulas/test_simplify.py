import copy
import time

import pytest
import torch

from helpers import assert_same_state
from kan_diffusion.data.densities import GaussianMixture
from kan_diffusion.denoisers.edges import CURVE, Edge
from kan_diffusion.denoisers.library import LIBRARY
from kan_diffusion.denoisers.readable import ReadableDenoiser, readable
from kan_diffusion.errors import NonFiniteLossError
from kan_diffusion.formulas.context import Context
from kan_diffusion.formulas.match import ExplainOptions, find_formulas, match_curve
from kan_diffusion.formulas.simplify import drop_idle, prune, straighten
from kan_diffusion.processes import get_process
from make import dataset
from networks import batch, kan, network

PROCESS = get_process("cosine").model_copy(update={"num_timesteps": 100})
NORMAL = dataset(GaussianMixture(torch.zeros(1, 2), variances=1.0))
SMALL = 1e-3
FEW = {name: LIBRARY[name] for name in ("linear", "tanh")}
SEARCH = ExplainOptions(steps=1, tolerance=1e-4, library={**FEW, "sin": LIBRARY["sin"]})


class _Teacher(Context):
    """A context whose target is what a network predicts, so that this network is best.

    It notes what it is told, and as many tries diverge as it refuses.
    """

    teacher: ReadableDenoiser
    refuses: int = 0
    said: list

    def loss(self, denoiser):
        points, steps = self.draw.noised, self.draw.timesteps
        with torch.no_grad():
            wanted = self.teacher(points.to(self.teacher.dtype), steps).sample.double()
            prediction = denoiser(points.to(denoiser.dtype), steps).sample.double()
        return float((prediction - wanted).square().mean())

    def tune(self, denoiser, steps, learning_rate):
        """Nothing: these networks have nothing to make up for."""
        self.tunings += 1
        if self.tunings <= self.refuses:
            raise NonFiniteLossError("it diverged")


def _set_curve(denoiser, place, values):
    """Makes a curve a function, as nearly as its grid lets it be."""
    number, input, output = place
    layer = denoiser.kan_layers[number]
    low, step = float(layer.basis.grid_origin[input]), float(layer.basis.grid_step[input])
    x = torch.linspace(low, low + step * layer.basis.num_intervals, 2001, dtype=torch.float64)
    functions = layer.basis(x[:, None].expand(-1, layer.in_features))[:, input]
    first = layer.features_per_input - functions.shape[1]
    with torch.no_grad():
        packed = layer._edges[output, input]
        packed.zero_()
        packed[first:] = torch.linalg.lstsq(functions, values(x)[:, None]).solution[:, 0]


def _curves(functions, hidden):
    """A network of curves that are given functions, biases 0, and a context that likes it best."""
    edges = [[] for _ in range(len(hidden) + 1)]
    for layer, input, output in functions:
        edges[layer].append((input, output, CURVE, False))
    made = network(edges, hidden, grid_size=40, grid_range=(-5.0, 5.0), order=3)
    with torch.no_grad():
        for layer in made.kan_layers:
            layer.bias.zero_()
    for place, values in functions.items():
        _set_curve(made, place, values)
    said = []
    context = _Teacher(
        NORMAL, PROCESS, 0, num_noised=2000, on_progress=lambda *what: said.append(what[1])
    )
    context.teacher, context.said = made, said
    return made, context


def _with_weak_edges():
    return _curves(
        {
            (0, 0, 0): torch.tanh,
            (0, 1, 0): lambda x: SMALL * x + 0.7,  # hardly moves, and has a constant
            (0, 1, 1): lambda x: 0.5 * x,
            (0, 2, 2): lambda x: 3 * x,  # large, into a unit nobody listens to
            (1, 0, 0): lambda x: x,
            (1, 1, 1): lambda x: x + 0.2 * x**2,
            (1, 2, 1): lambda x: SMALL * x + 0.4,
        },
        [3],
    )


def test_pruning_takes_away_what_is_below_the_threshold_in_rounds_until_nothing_is():
    denoiser, context = _with_weak_edges()
    before = copy.deepcopy(denoiser)
    shares = context.importance(denoiser).shares
    below = [e for e in denoiser.edges if float(shares[e.layer][e.output, e.input]) < 0.05]
    assert {edge.place for edge in below} == {(0, 1, 0), (0, 2, 2), (1, 2, 1)}
    pruned = prune(denoiser, context, 0.05)
    # Their means stay; the unit goes, and so does the input.
    assert 0 < context.loss(pruned) < 20 * SMALL**2
    assert pruned.unit_names() == [["x0", "x1"], ["h1.0", "h1.1"], ["out0", "out1"]]
    assert_same_state(denoiser, before)
    # A threshold of zero prunes nothing, not even the unit that nothing leaves: it has an edge.
    assert len(prune(denoiser, context, 0.0).edges) == 7
    assert context.said == []
    assert len(prune(denoiser, context, 0.05, 5).edges) == len(pruned.edges) == 4
    assert context.tunings == 2
    assert context.said == ["round 1: 7 edges to 4", "round 2: 4 edges to 4"]


def test_pruning_does_not_cut_off_an_output():
    denoiser, context = _with_weak_edges()
    # Whatever the threshold, strong edges lead to both outputs, and weak ones are gone.
    assert {edge.place for edge in prune(denoiser, context, 3.0).edges} == {
        edge.place for edge in prune(denoiser, context, 0.05).edges
    }
    # Weak edges into a unit, and a strong one from there to an output.
    places = [(0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 1, 1)]
    weak, context = _curves(dict.fromkeys(places, lambda x: x), [2])
    shares = context.importance(weak).shares
    threshold = float(shares[0][0].max()) * 1.01
    assert threshold < float(shares[1].diagonal().min())
    pruned = prune(weak, context, threshold)
    assert {(edge.layer, edge.output) for edge in pruned.edges} >= {(1, 0), (1, 1)}
    # Of outputs that no edge leads to nothing can be cut off, and the search ends.
    idle, context = _curves({(0, 0, 0): lambda x: 0 * x, (1, 0, 0): lambda x: 0 * x}, [1])
    assert context.loss(prune(idle, context, 0.05)) == pytest.approx(0, abs=1e-12)


def test_lines_become_lines_and_a_bend_that_is_needed_stays():
    denoiser, context = _curves(
        {
            (0, 0, 0): lambda x: 0.8 * x - 0.3,
            (0, 1, 1): lambda x: torch.tanh(1.5 * x),
            (0, 1, 0): lambda x: 0 * x + 0.9,  # a constant, which must not get lost
            (1, 0, 0): lambda x: -x + 0.5,
            (1, 1, 1): lambda x: 2 * x,
            (1, 1, 0): lambda x: 0.3 * x,
        },
        [2],
    )
    made = straighten(denoiser, context, 1e-6)
    assert [edge.place for edge in made.edges if edge.kind == CURVE] == [(0, 1, 1)]
    assert context.loss(made) <= 1e-6
    stays = {"layer 1: straight", "layer 0: stays curved", "edge x1 to h1.1: stays curved"}
    assert stays <= set(context.said)
    # With a larger tolerance it goes as well.
    free = straighten(denoiser, context, tolerance=10.0)
    assert all(edge.kind == "linear" for edge in free.edges)
    assert {edge.kind for edge in denoiser.edges} == {CURVE}


def test_a_try_that_diverges_is_one_that_failed():
    denoiser, context = _curves({(0, 0, 0): lambda x: x, (0, 1, 1): lambda x: x}, [])
    context.refuses = 2  # the layer, then the first curve
    made = straighten(denoiser, context, tolerance=1e-6)
    assert sorted(edge.kind for edge in made.edges) == [CURVE, "linear"]


def test_a_redundant_unit_is_dropped_and_no_output_whatever_the_loss():
    denoiser, context = _curves(
        {
            (0, 0, 0): torch.tanh,
            (0, 1, 1): lambda x: x,
            (0, 0, 2): torch.sin,
            (1, 0, 0): lambda x: x,
            (1, 1, 1): lambda x: x,
            (1, 2, 1): lambda x: 0 * x + 2.5,  # listens to nothing, and gives a constant
        },
        [3],
    )
    made = drop_idle(denoiser, context, 1e-4)
    assert (list(made.config.hidden), len(made.edges)) == ([2], 4)
    assert context.loss(made) < 1e-4
    assert sum(line.endswith("dropped") for line in context.said) == 1
    denoiser, context = _with_weak_edges()
    made = drop_idle(denoiser, context, tolerance=1e9)
    assert {edge.output for edge in made.edges if edge.layer == 1} == {0, 1}
    assert len(made.edges) <= 4


def _with_formulas():
    return _curves(
        {
            (0, 0, 0): lambda x: 1.4 * torch.tanh(1.2 * x + 0.2),
            (0, 1, 1): lambda x: 0.6 * x,
            (1, 0, 0): lambda x: -0.7 * x,
            (1, 1, 1): lambda x: torch.sin(4.3 * x) + torch.cos(7 * x),
        },
        [2],
    )


def test_formulas_are_found_where_there_are_any():
    denoiser, context = _with_formulas()
    changed, reports = find_formulas(denoiser, context, SEARCH)
    by_name = {(report.source, report.target): report for report in reports}
    tanh = by_name["x0", "h1.0"]
    assert (tanh.kind, tanh.has_slope, tanh.reason) == ("tanh", False, "")
    assert tanh.r2 > 0.999
    assert {by_name[place].kind for place in (("x1", "h1.1"), ("h1.0", "out0"))} == {"linear"}
    wiggly = by_name["h1.1", "out1"]
    assert wiggly.kind == CURVE
    share = float(wiggly.reason.partition("R² ")[2].split(",")[0])
    assert share <= wiggly.r2 < 0.99  # it is not rounded up
    assert "below 0.99" in wiggly.reason
    assert context.loss(changed) <= SEARCH.tolerance
    assert len(context.said) == 4
    assert {edge.kind for edge in denoiser.edges} == {CURVE}
    (edge,) = (edge for edge in changed.edges if edge.kind == "tanh")
    _, a, _, c, _ = changed.kan_layers[0].formula_of(edge)
    assert (abs(a), abs(c)) == pytest.approx((1.2, 1.4), rel=2e-2)
    # What an earlier search matched keeps its R².
    context.until = time.monotonic()
    _, again = find_formulas(changed, context, SEARCH, before=reports)
    assert [r.r2 for r in again if r.kind == "tanh"] == [tanh.r2]


def test_a_match_is_refused_below_the_least_share_and_where_it_raises_the_loss():
    denoiser, context = _with_formulas()
    options = ExplainOptions(steps=1, tolerance=1e9, min_r2=1.1, library=FEW)
    changed, reports = find_formulas(denoiser, context, options)
    assert changed is denoiser
    assert all("below 1.1" in report.reason for report in reports)
    library = {name: LIBRARY[name] for name in ("square", "gaussian")}
    options = ExplainOptions(steps=1, tolerance=1e-4, min_r2=-10.0, library=library, candidates=1)
    importance = context.importance(denoiser)
    changed, reports = find_formulas(denoiser, context, options)
    refusals = [(e, r) for e, r in zip(changed.edges, reports, strict=True) if r.reason]
    assert {report.source for _, report in refusals} >= {"x0", "h1.1"}
    for edge, report in refusals:
        cheapest, *_ = match_curve(*importance.samples(edge), library)
        assert report.r2 == pytest.approx(cheapest.r2, abs=1e-3)
        assert f"that was tried, {cheapest.name}," in report.reason
        assert "the loss rises by more than 0.0001" in report.reason
    assert context.loss(changed) <= 1e-4


def test_curves_that_are_not_reached_in_the_time_stay_and_say_so():
    denoiser, context = _with_formulas()
    context.until = time.monotonic()
    _, reports = find_formulas(denoiser, context, SEARCH)
    assert context.tunings == 0
    assert [report.reason for report in reports] == ["not tried: the time budget was over"] * 4
    assert straighten(denoiser, context, 1e-6) is denoiser
    assert drop_idle(denoiser, context, 1e9) is denoiser


def test_an_edge_that_gives_a_constant_becomes_one():
    denoiser, context = _curves(
        {(0, 0, 0): lambda x: x, (0, 1, 1): lambda x: x, (0, 1, 0): lambda x: 0 * x + 1.5}, []
    )
    options = ExplainOptions(steps=1, tolerance=1e-4, library=FEW)
    changed, _ = find_formulas(denoiser, context, options)
    assert [edge.place for edge in changed.edges] == [(0, 0, 0), (0, 1, 1)]
    assert context.loss(changed) < 1e-6


def test_importance_is_measured_on_what_passes_through():
    denoiser = readable(kan(modulated=True, scaled_inputs=True))
    context = Context(NORMAL, PROCESS, 0, num_noised=2000)
    importance = context.importance(denoiser)
    points, steps = context.draw.noised, context.draw.timesteps
    scaled = points * denoiser.modulations(steps, torch.float64)[0][0]
    torch.testing.assert_close(importance.inputs[0], scaled.detach())
    x, y = importance.samples(Edge(1, 2, 0))
    curve = denoiser.kan_layers[1].edge_curve(2, 0, torch.from_numpy(x))
    torch.testing.assert_close(torch.from_numpy(y), curve)
    # Outputs are sums of their edges, and no sum is spread wider than its terms together.
    assert bool((importance.shares[-1].sum(1) >= 1 - 1e-9).all())


def test_fine_tuning_lowers_the_loss_and_draws_other_points_each_time():
    context = Context(NORMAL, PROCESS, 0, num_noised=2000)
    first = readable(kan(hidden=(3,))).float()
    second = copy.deepcopy(first)
    before = context.loss(first)
    context.tune(first, 60, 1e-2)
    assert context.loss(first) < before
    context.tune(second, 60, 1e-2)
    points, steps = batch()
    points = points.float()
    assert not torch.equal(first(points, steps).sample, second(points, steps).sample)
    with torch.no_grad():
        first.kan_layers[0].bias.fill_(float("nan"))
    assert context.loss(first) == float("inf")
