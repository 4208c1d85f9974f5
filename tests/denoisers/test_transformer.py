"""The transformer of pictures: sizes, conditions, saving, and that its parts do their work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from helpers import assert_same_state, randn, refused, seeded
from kan_diffusion.denoisers import build_denoiser, get_family
from kan_diffusion.denoisers.transformer import TRANSFORMER_FAMILIES, TransformerDenoiser
from kan_diffusion.kan import KANLinear
from kan_diffusion.kanified import LearnedActivation

SHAPE = 3, 8, 8
SMALL = {"width": 16, "heads": 2}

each_family = pytest.mark.parametrize("family", [family.name for family in TRANSFORMER_FAMILIES])


def _build(family: str = "dit-kan", **options: object) -> TransformerDenoiser:
    options = {"hidden": (9, 8), "generator": seeded(1), **options}
    settings = {**SMALL, **options.pop("settings", {})}
    denoiser = build_denoiser(family, SHAPE, num_train_timesteps=100, settings=settings, **options)
    assert isinstance(denoiser, TransformerDenoiser)
    return denoiser.eval()


def _pictures(num: int = 4) -> torch.Tensor:
    return randn(num, *SHAPE, dtype=torch.float32)


@each_family
def test_families_have_one_size_and_are_fitted_to_it(family: str) -> None:
    denoiser = _build(family, hidden=None, depth=2, params=20_000)
    assert abs(denoiser.num_trainable - 20_000) <= 400
    kinds = {"dit-kan": LearnedActivation, "dit-full-kan": KANLinear}
    for block in denoiser.network.transformer_blocks:
        found = [type(part) for part in block.ff.modules()]
        for name, kind in kinds.items():
            assert (kind in found) == (name == family)
    assert get_family(family).title


@each_family
def test_a_saved_one_is_read_as_it_was(family: str, tmp_path: Path) -> None:
    denoiser = _build(family, num_classes=3)
    denoiser.save_pretrained(tmp_path)
    loaded = TransformerDenoiser.from_pretrained(tmp_path)
    assert_same_state(loaded, denoiser)
    given = _pictures(), torch.tensor([0, 9, 50, 99]), torch.tensor([0, 2, -1, 1])
    assert torch.equal(loaded(*given).sample, denoiser(*given).sample)


@each_family
def test_parameters_come_from_the_generator_alone(family: str) -> None:
    one, same, other = (_build(family, generator=seeded(seed)) for seed in (1, 1, 2))
    assert_same_state(one, same)
    x = _pictures()
    assert not torch.allclose(one(x, 5).sample, other(x, 5).sample)


def test_every_picture_is_told_its_own_timestep_and_class() -> None:
    denoiser = _build(num_classes=3)
    x, steps, labels = _pictures(), torch.tensor([0, 30, 60, 99]), torch.tensor([0, 2, -1, 1])
    together = denoiser(x, steps, labels).sample
    for row in range(4):
        label = None if labels[row] < 0 else labels[row : row + 1]
        alone = denoiser(x[row : row + 1], int(steps[row]), label).sample
        torch.testing.assert_close(together[row : row + 1], alone)
    plain = denoiser(x, 30).sample
    for label in range(3):
        assert not torch.allclose(denoiser(x, 30, torch.full((4,), label)).sample, plain)
    assert torch.equal(denoiser(x, 30, torch.full((4,), -1)).sample, plain)


def test_no_prompt_is_a_prompt_of_zeros_of_any_length() -> None:
    denoiser = _build(settings={"text_width": 6})
    x = _pictures()
    plain = denoiser(x, 30).sample
    for tokens in (1, 5):
        zeros = x.new_zeros(4, tokens, 6)
        torch.testing.assert_close(
            denoiser(x, 30, encoder_hidden_states=zeros).sample, plain, atol=1e-5, rtol=1e-4
        )
    said = randn(4, 5, 6, seed=2, dtype=torch.float32)
    assert not torch.allclose(denoiser(x, 30, encoder_hidden_states=said).sample, plain)


def test_all_parameters_are_trained_and_all_of_the_picture_is_seen() -> None:
    denoiser = _build(num_classes=3)
    x = _pictures().requires_grad_()
    denoiser(x, 30, torch.tensor([0, 1, 2, 1])).sample[:, :, 0, 0].square().sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).all()
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_operations_are_those_that_torch_counts() -> None:
    denoiser = _build("dit")
    # Fused attention on a CPU is not among the operations that it counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        denoiser(_pictures(1), 0)
    assert denoiser.flops == counter.get_total_flops()
    more = [_build(family, hidden=(20, 8)).flops for family in ("dit", "dit-kan", "dit-full-kan")]
    fewer = [_build(family).flops for family in ("dit", "dit-kan", "dit-full-kan")]
    assert all(after > before for before, after in zip(fewer, more, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (3, 8, 6)}, "squares of .* not 3 x 8 x 6"),
        ({"shape": (3, 9, 9)}, "a patch of 2 divides, not 3 x 9 x 9"),
        ({"shape": (3, 10**6, 10**6)}, "pictures of 1,000,000 pixels .* are too large"),
        ({"width": 10**7, "heads": 2}, "tokens of 10,000,000 numbers are too large"),
        ({"width": 15, "heads": 2}, "its 2 heads divide, not 4 and 15"),
        ({"hidden": ()}, "a block or more"),
        ({"num_classes": 2, "text_width": 4}, "give one of the two"),
        ({"feed_forward": "groped"}, "did you mean 'grouped'"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with refused(message):
        TransformerDenoiser(**settings)


def test_what_it_was_not_built_for_is_refused() -> None:
    denoiser, told = _build(), _build(num_classes=2)
    x = _pictures()
    with refused(r"shape \(B, 3, 8, 8\), not \(4, 3, 8, 9\)"):
        denoiser(torch.zeros(4, 3, 8, 9), 0)
    with refused("built without classes; leave class_labels out or build it with num_classes"):
        denoiser(x, 0, torch.zeros(4).long())
    with refused(
        "built without prompts; leave encoder_hidden_states out or build it with text_width"
    ):
        told(x, 0, encoder_hidden_states=torch.zeros(4, 1, 6))
    with refused("class label 2 is unknown .* 0 to 1"):
        told.require_conditions({"class_labels": torch.tensor([2])}, 1)
    with refused("built without classes"):
        denoiser.require_conditions({"class_labels": torch.tensor([0])}, 1)
    with refused(r"shape \(B, tokens, 6\), not \(4, 2, 5\)"):
        _build(settings={"text_width": 6}).require_conditions(
            {"encoder_hidden_states": torch.zeros(4, 2, 5)}, 4
        )
