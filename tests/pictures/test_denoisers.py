import pytest
import torch
from diffusers.models.attention import Attention
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from helpers import refused
from kan_diffusion.pictures.denoisers import PictureDenoiser
from kan_diffusion.pictures.prompts import TEXT_WIDTH
from picture_contract import FEW, PictureContract, build, pictures


@pytest.mark.parametrize("family", FEW)
class TestPictureFamily(PictureContract):
    pass


def test_the_feed_forwards_are_the_only_difference_to_the_kan():
    for plain, kan in (("dit", "dit-kan"), ("unet", "unet-kan")):
        shapes = [
            {name: value.shape for name, value in build(family).state_dict().items()}
            for family in (plain, kan)
        ]
        others = [name for name in set.union(*map(set, shapes)) if ".ff." not in name]
        assert all(shapes[0][name] == shapes[1][name] for name in others)
        assert shapes[0] != shapes[1]


@pytest.mark.parametrize("family", ["dit", "unet"])
def test_operations_are_those_that_torch_counts_for_a_prompt_of_one_token(family):
    denoiser = build(family)
    denoiser.text_encoder.forward = lambda tokens: torch.zeros(len(tokens), 1, TEXT_WIDTH)
    # Fused attention on a CPU is not among the operations that it counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        denoiser(pictures(1), 0)
    assert denoiser.flops == counter.get_total_flops()


@pytest.mark.parametrize("family", FEW)
def test_a_timestep_is_told_the_mean_of_a_context(family):
    denoiser = build(family)
    for part in denoiser.modules():  # so that nothing else is told it
        if isinstance(part, Attention) and part.is_cross_attention:
            torch.nn.init.zeros_(part.to_out[0].weight)
    x, context = pictures(), pictures(shape=(3, TEXT_WIDTH))

    def drawn(told):
        denoiser.text_encoder.forward = lambda _: told
        return denoiser(x, 30).sample

    torch.testing.assert_close(drawn(context), drawn(context.mean(1, keepdim=True)))
    assert not torch.allclose(drawn(context), drawn(context.flip(0)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (3, 8, 6)}, "squares of .* not 3 x 8 x 6"),
        ({"shape": (3, 9, 9)}, "1,024 that 2 divides, .* not 3 x 9 x 9"),
        ({"shape": (3, 10**6, 10**6)}, "at most 1,024 .* not 3 x 1000000 x"),
        ({"feed_forward": "groped"}, "did you mean 'grouped'"),
        ({"channels": ()}, r"multiples of 8, the last of 16, not \[\]"),
        ({"channels": (8, 12)}, r"multiples of 8, the last of 16, not \[8, 12\]"),
        ({"channels": (8, 8 * 10**6)}, "layers of at most"),
        ({"channels": (8,) * 10**5}, "1 to 11 numbers of channels"),
        ({"hidden": (8, 8, 8)}, "an even number of feed-forwards, four or more"),
        ({"architecture": "dit", "width": 10**7}, "layers of at most"),
        ({"architecture": "dit", "width": 15}, "a multiple of 16, not 4 and 15"),
        ({"architecture": "cnn"}, "unknown architecture"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(settings, message):
    with refused(message):
        PictureDenoiser(**settings)


def test_what_it_was_not_built_for_is_refused():
    denoiser, tokens = build("dit"), torch.zeros(4, 6).long()
    with refused(r"\(B, 3, 8, 8\), not \(4, 3, 8, 9\)"):
        denoiser(torch.zeros(4, 3, 8, 9), 0)
    with refused("a sample, 4, not 2"):
        denoiser.require_conditions({"input_ids": tokens[:2]}, 4)
    with refused("takes input_ids, not class_labels"):
        denoiser.require_conditions({"class_labels": tokens}, 4)
