import pytest
import torch
from diffusers.models.attention import Attention
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from helpers import refused
from kan_diffusion.pictures.denoisers import TransformerDenoiser, UNetDenoiser
from picture_contract import FEW, PictureContract, build, pictures

each_network = pytest.mark.parametrize("family", ["dit-kan", "unet-kan"])


@pytest.mark.parametrize(("family", "told"), FEW)
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
@pytest.mark.parametrize("pooled", [False, True])
def test_operations_are_those_that_torch_counts(family, pooled):
    denoiser = build(family, settings={"pooled": pooled})
    # Fused attention on a CPU is not among the operations that it counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        denoiser(pictures(1), 0)
    assert denoiser.flops == counter.get_total_flops()


@each_network
def test_a_timestep_is_told_the_mean_of_a_context(family):
    denoiser = build(family, settings={"text_width": 6, "pooled": True})
    for part in denoiser.modules():  # so that nothing else is told it
        if isinstance(part, Attention) and part.is_cross_attention:
            torch.nn.init.zeros_(part.to_out[0].weight)
    x, prompts = pictures(), pictures(shape=(3, 6))

    def drawn(told):
        return denoiser(x, 30, encoder_hidden_states=told).sample

    torch.testing.assert_close(drawn(prompts), drawn(prompts.mean(1, keepdim=True)))
    assert not torch.allclose(drawn(prompts), drawn(prompts.flip(0)))


OF_BOTH = [
    ({"shape": (3, 8)}, "squares of .* not 3 x 8"),
    ({"shape": (3, 8, 6)}, "squares of .* not 3 x 8 x 6"),
    ({"shape": (3, 9, 9)}, "a side that 2 divides, not 3 x 9 x 9"),
    ({"shape": (3, 10**6, 10**6)}, "pictures of 1,000,000 pixels .* are too large"),
    ({"num_classes": 2, "text_width": 4}, "give one of the two"),
    ({"feed_forward": "groped"}, "did you mean 'grouped'"),
]
UNFIT = {
    TransformerDenoiser: [
        *OF_BOTH,
        ({"width": 10**7, "heads": 2}, "640,000,000 numbers .* are too large"),
        ({"width": 15, "heads": 2}, "its 2 heads divide, not 4 and 15"),
        ({"hidden": ()}, "a block or more"),
    ],
    UNetDenoiser: [
        *OF_BOTH,
        ({"channels": ()}, r"multiples of 8, not \[\]"),
        ({"channels": (8, 12)}, r"multiples of 8, not \[8, 12\]"),
        ({"channels": (-8, 8)}, r"multiples of 8, not \[-8, 8\]"),
        ({"channels": (8, 8 * 10**6)}, "too large"),
        ({"channels": (8,) * 6}, "with a side that 32 divides"),
        ({"channels": (8,) * 10**5}, "1 to 11 numbers of channels"),
        ({"heads": 3}, "divide the last of its channels, not 4 and 3 for 32"),
        ({"hidden": (8, 8, 8)}, "an even number of feed-forwards, four or more"),
    ],
}


@pytest.mark.parametrize("kind", UNFIT)
def test_numbers_that_do_not_fit_are_refused(kind):
    for settings, message in UNFIT[kind]:
        with refused(message):
            kind(**settings)


@each_network
def test_what_it_was_not_built_for_is_refused(family):
    denoiser, told = build(family), build(family, num_classes=2)
    prompted, x = build(family, settings={"text_width": 6}), pictures()
    labels, prompts = torch.zeros(4).long(), torch.zeros(4, 1, 6)
    for call, message in (
        (lambda: denoiser(torch.zeros(4, 3, 8, 9), 0), r"\(B, 3, 8, 8\), not \(4, 3, 8, 9\)"),
        (lambda: denoiser(x, 0, labels), "without classes; leave class_labels out or build it wi"),
        (
            lambda: told(x, 0, encoder_hidden_states=prompts),
            "without prompts; leave encoder_hidden_states out or build it with text_width",
        ),
        (
            lambda: told.require_conditions({"class_labels": labels + 2}, 4),
            "class label 2 is unknown .* 0 to 1",
        ),
        (
            lambda: told.require_conditions({"class_labels": labels - 2}, 4),
            "class label -2 is unknown .* 0 to 1",
        ),
        (lambda: told.require_conditions({"class_labels": labels.float()}, 4), "whole numbers"),
        (lambda: told.require_conditions({"class_labels": labels[:2]}, 4), "a sample, 4, not 2"),
        (lambda: denoiser.require_conditions({"class_labels": labels}, 4), "without classes"),
        (
            lambda: prompted.require_conditions({"encoder_hidden_states": prompts[..., 1:]}, 4),
            r"shape \(B, tokens, 6\), not \(4, 1, 5\)",
        ),
    ):
        with refused(message):
            call()
