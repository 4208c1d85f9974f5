import torch

from helpers import randn, refused, seeded
from kan_diffusion.kan import KAN


def test_a_frozen_layer_lets_gradients_through():
    network = KAN([3, 5, 2], dtype=torch.float64)
    network.layers[1].requires_grad_(False)
    network(randn(7, 3)).sum().backward()
    assert network.layers[1].weight.grad is None
    assert float(network.layers[0].weight.grad.abs().sum()) > 0


def test_one_stream_of_random_numbers_runs_through_the_layers():
    network, twin = KAN([2, 6, 1]), KAN([2, 6, 1])
    state = torch.get_rng_state()
    network.reset_parameters(seeded(1))
    twin.reset_parameters(seeded(1))
    assert torch.equal(state, torch.get_rng_state())
    x = torch.randn(8, 2, generator=seeded(0))
    assert torch.equal(network(x), twin(x))
    # The second layer does not start where the first did.
    twin.layers[1].reset_parameters(seeded(1))
    assert not torch.equal(network(x), twin(x))


def test_a_small_kan_learns_a_function_that_edges_alone_can_express():
    # x0 * x1 = exp(log x0 + log x1): two layers of univariate functions are enough.
    x = 0.2 + 1.6 * torch.rand(512, 2, generator=seeded(0))
    y = x.prod(-1, keepdim=True)
    network = KAN([2, 2, 1], grid_range=(0.0, 2.0))
    network.reset_parameters(seeded(1))
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=150, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (network(x) - y).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    held_out = 0.2 + 1.6 * torch.rand(512, 2, generator=seeded(2))
    error = (network(held_out) - held_out.prod(-1, keepdim=True)).square().mean()
    # What the best plane leaves is 9 % of the variance.
    assert float(error.detach()) < 1e-3 * float(y.var())


def test_unusable_settings_are_refused():
    for sizes, settings, message in (
        ([3], {}, r"at least two widths, not \[3\]"),
        ([2, 3, 1], {"basis": "wavelet"}, "unknown basis 'wavelet'"),
        ([2, 0, 1], {}, "at least one input and one output, not 2 and 0"),
    ):
        with refused(message):
            KAN(sizes, **settings)
