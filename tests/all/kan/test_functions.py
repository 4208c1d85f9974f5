"""What torch's own operations keep of many learned functions."""

from __future__ import annotations

import torch

from helpers import randn, scrambled
from kan_diffusion.kan import LearnedFunctions


def test_torch_keeps_inputs_alone_where_there_are_many():
    """In parts that are computed again, with the numbers and gradients of few rows."""
    module = scrambled(LearnedFunctions(6, 2, 3, basis="rbf", dtype=torch.float64))
    x = randn(2**17, 6).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        h = module(x)
    assert sum(kept) < 3 * x.numel()
    found = torch.autograd.grad(h.sin().sum(), [x, module.coefficients])
    few = [module(part) for part in x.split(2**14)]
    torch.testing.assert_close(h, torch.cat(few))
    expected = torch.autograd.grad(torch.cat(few).sin().sum(), [x, module.coefficients])
    torch.testing.assert_close(found, expected)
