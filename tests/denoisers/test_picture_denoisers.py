"""The denoisers of pictures: sizes, conditions, saving, and that their parts do their work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.attention import Attention, FeedForward
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from helpers import assert_same_state, randn, refused, seeded
from kan_diffusion.denoisers import build_denoiser, get_family
from kan_diffusion.denoisers.pictures import PictureDenoiser
from kan_diffusion.denoisers.transformer import TRANSFORMER_FAMILIES, TransformerDenoiser
from kan_diffusion.denoisers.unet import UNET_FAMILIES, UNetDenoiser
from kan_diffusion.kan import KANLinear
from kan_diffusion.kanified import LearnedActivation

SHAPE = 3, 8, 8
SMALL: dict[type, dict[str, object]] = {
    TransformerDenoiser: {"width": 16, "heads": 2},
    UNetDenoiser: {"channels": (8, 16), "heads": 2},
}
HIDDEN = {TransformerDenoiser: (9, 8), UNetDenoiser: (9, 8, 7, 6)}

each_family = pytest.mark.parametrize(
    "family", [family.name for family in (*TRANSFORMER_FAMILIES, *UNET_FAMILIES)]
)
each_telling = pytest.mark.parametrize(
    "told",
    [{}, {"pooled": True}, {"draft_patch": 2}, {"pooled": True, "draft_patch": 4}],
    ids=["attention", "pooled", "draft", "both"],
)
each_network = pytest.mark.parametrize("family", ["dit-kan", "unet-kan"])


def _build(family: str, shape: tuple[int, ...] = SHAPE, **options: object) -> PictureDenoiser:
    kind = get_family(family).denoiser_class
    options = {"hidden": HIDDEN[kind], "generator": seeded(1), **options}
    settings = {**SMALL[kind], **options.pop("settings", {})}
    denoiser = build_denoiser(family, shape, num_train_timesteps=100, settings=settings, **options)
    assert isinstance(denoiser, PictureDenoiser)
    return denoiser.eval()


def _feed_forwards(denoiser: PictureDenoiser) -> list[FeedForward]:
    return [part for part in denoiser.modules() if isinstance(part, FeedForward)]


def _pictures(num: int = 4, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return randn(num, *shape, dtype=torch.float32)


@each_family
def test_families_have_one_size_and_are_fitted_to_it(family: str) -> None:
    depth = len(HIDDEN[get_family(family).denoiser_class])
    params = 20_000 if family.startswith("dit") else 60_000
    denoiser = _build(family, hidden=None, depth=depth, params=params)
    assert denoiser.num_trainable == pytest.approx(params, rel=0.02)
    kinds = {LearnedActivation: ("dit-kan", "unet-kan"), KANLinear: ("dit-full-kan",)}
    assert len(_feed_forwards(denoiser)) == depth
    for block in _feed_forwards(denoiser):
        found = [type(part) for part in block.modules()]
        for kind, families in kinds.items():
            assert (kind in found) == (family in families)
    assert get_family(family).title


@each_network
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (4, 32, 32)])
def test_pictures_are_of_any_usual_size_and_mode(family: str, shape: tuple[int, ...]) -> None:
    x = _pictures(2, shape)
    for told in ({}, {"num_classes": 2}, {"settings": {"text_width": 6}}):
        denoiser = _build(family, shape, **told)
        given = {
            "num_classes": {"class_labels": torch.tensor([0, 1])},
            "settings": {"encoder_hidden_states": randn(2, 3, 6, dtype=torch.float32)},
        }
        conditions = given.get(next(iter(told), ""), {})
        prediction = denoiser(x, 5, **conditions).sample
        assert prediction.shape == x.shape
        assert not conditions or not torch.allclose(prediction, denoiser(x, 5).sample)


def test_the_feed_forwards_are_the_only_difference_to_the_kan() -> None:
    for plain, kan in (("dit", "dit-kan"), ("unet", "unet-kan")):
        shapes = [
            {name: value.shape for name, value in _build(family).state_dict().items()}
            for family in (plain, kan)
        ]
        differ = [name for name in set.union(*map(set, shapes)) if ".ff." not in name]
        assert all(shapes[0][name] == shapes[1][name] for name in differ)
        assert shapes[0] != shapes[1]


@each_family
def test_a_saved_one_is_read_as_it_was(family: str, tmp_path: Path) -> None:
    denoiser = _build(family, num_classes=3, settings={"pooled": True, "draft_patch": 4})
    denoiser.save_pretrained(tmp_path)
    loaded = type(denoiser).from_pretrained(tmp_path)
    assert_same_state(loaded, denoiser)
    given = _pictures(), torch.tensor([0, 9, 50, 99]), torch.tensor([0, 2, -1, 1])
    assert torch.equal(loaded(*given).sample, denoiser(*given).sample)


@each_family
def test_parameters_come_from_the_generator_alone(family: str) -> None:
    one, same, other = (_build(family, generator=seeded(seed)) for seed in (1, 1, 2))
    assert_same_state(one, same)
    x = _pictures()
    assert not torch.allclose(one(x, 5).sample, other(x, 5).sample)


@each_network
@each_telling
def test_every_picture_is_told_its_own_timestep_and_class(
    family: str, told: dict[str, int]
) -> None:
    denoiser = _build(family, num_classes=3, settings=told)
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


@each_network
@each_telling
def test_no_prompt_is_a_prompt_of_zeros_of_any_length(family: str, told: dict[str, int]) -> None:
    denoiser = _build(family, settings={"text_width": 6, **told})
    x = _pictures()
    plain = denoiser(x, 30).sample
    for tokens in (1, 5):
        zeros = x.new_zeros(4, tokens, 6)
        torch.testing.assert_close(
            denoiser(x, 30, encoder_hidden_states=zeros).sample, plain, atol=1e-5, rtol=1e-4
        )
    said = randn(4, 5, 6, seed=2, dtype=torch.float32)
    assert not torch.allclose(denoiser(x, 30, encoder_hidden_states=said).sample, plain)


@each_network
@each_telling
def test_zeros_behind_a_prompt_are_not_attended_to(family: str, told: dict[str, int]) -> None:
    denoiser = _build(family, settings={"text_width": 6, **told})
    x, prompts = _pictures(), randn(4, 3, 6, dtype=torch.float32)
    prompts[1, 2:] = 0
    padded = torch.cat([prompts, x.new_zeros(4, 5, 6)], dim=1)
    said, with_more = (
        denoiser(x, 30, encoder_hidden_states=each).sample for each in (prompts, padded)
    )
    torch.testing.assert_close(with_more, said)
    alone = denoiser(x[1:2], 30, encoder_hidden_states=prompts[1:2, :2]).sample
    torch.testing.assert_close(said[1:2], alone)


@each_network
@each_telling
def test_all_parameters_are_trained_and_all_of_the_picture_is_seen(
    family: str, told: dict[str, int]
) -> None:
    denoiser = _build(family, settings={"text_width": 6, **told})
    x = _pictures().requires_grad_()
    prompts = randn(4, 3, 6, dtype=torch.float32)
    said = denoiser(x, 30, encoder_hidden_states=prompts).sample
    said[:, :, 0, 0].square().sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).all()
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("family", ["dit", "unet"])
@each_telling
def test_operations_are_those_that_torch_counts(family: str, told: dict[str, int]) -> None:
    denoiser = _build(family, settings=told)
    # Fused attention on a CPU is not among the operations that it counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        denoiser(_pictures(1), 0)
    assert denoiser.flops == counter.get_total_flops()


@each_network
def test_a_timestep_is_told_the_mean_of_a_context(family: str) -> None:
    denoiser = _build(family, settings={"text_width": 6, "pooled": True})
    for part in denoiser.modules():  # so that nothing else is told it
        if isinstance(part, Attention) and part.is_cross_attention:
            torch.nn.init.zeros_(part.to_out[0].weight)
    x, prompts = _pictures(), randn(4, 3, 6, dtype=torch.float32)

    def drawn(told: torch.Tensor) -> torch.Tensor:
        return denoiser(x, 30, encoder_hidden_states=told).sample

    torch.testing.assert_close(drawn(prompts), drawn(prompts.mean(1, keepdim=True)))
    assert not torch.allclose(drawn(prompts), drawn(prompts.flip(0)))


@each_family
def test_operations_grow_with_the_feed_forwards(family: str) -> None:
    few, *rest = HIDDEN[get_family(family).denoiser_class]
    assert _build(family).flops < _build(family, hidden=(few + 9, *rest)).flops


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (TransformerDenoiser, {"width": 10**7, "heads": 2}, "640,000,000 numbers .* are too large"),
        (TransformerDenoiser, {"width": 15, "heads": 2}, "its 2 heads divide, not 4 and 15"),
        (TransformerDenoiser, {"hidden": ()}, "a block or more"),
        (UNetDenoiser, {"channels": ()}, r"multiples of 8, not \[\]"),
        (UNetDenoiser, {"channels": (8, 12)}, r"multiples of 8, not \[8, 12\]"),
        (UNetDenoiser, {"channels": (-8, 8)}, r"multiples of 8, not \[-8, 8\]"),
        (UNetDenoiser, {"channels": (8, 8 * 10**6)}, "too large"),
        (UNetDenoiser, {"channels": (8,) * 6}, "with a side that 32 divides"),
        (UNetDenoiser, {"channels": (8,) * 10**5}, "1 to 11 numbers of channels"),
        (UNetDenoiser, {"heads": 3}, "divide the last of its channels, not 4 and 3 for 32"),
        (UNetDenoiser, {"hidden": (8, 8, 8)}, "an even number of feed-forwards, four or more"),
        *[
            (kind, *case)
            for kind in (TransformerDenoiser, UNetDenoiser)
            for case in (
                ({"shape": (3, 8)}, "squares of .* not 3 x 8"),
                ({"shape": (3, 8, 6)}, "squares of .* not 3 x 8 x 6"),
                ({"shape": (3, 9, 9)}, "a side that 2 divides, not 3 x 9 x 9"),
                ({"shape": (3, 10**6, 10**6)}, "pictures of 1,000,000 pixels .* are too large"),
                ({"num_classes": 2, "text_width": 4}, "give one of the two"),
                ({"feed_forward": "groped"}, "did you mean 'grouped'"),
            )
        ],
    ],
)
def test_numbers_that_do_not_fit_are_refused(
    kind: type[PictureDenoiser], settings: dict[str, object], message: str
) -> None:
    with refused(message):
        kind(**settings)


@each_network
def test_what_it_was_not_built_for_is_refused(family: str) -> None:
    denoiser, told = _build(family), _build(family, num_classes=2)
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
        _build(family, settings={"text_width": 6}).require_conditions(
            {"encoder_hidden_states": torch.zeros(4, 2, 5)}, 4
        )
