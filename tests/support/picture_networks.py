"""Small networks of diffusers and transformers with random weights, and calls of them."""

import torch
from torch import Tensor, nn

from helpers import seeded
from kan_diffusion.kanified import find_blocks, kanify


def dit():
    from diffusers import DiTTransformer2DModel

    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=3,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=10,
        activation_fn="gelu-approximate",
    )
    return network, (torch.randn(2, 3, 8, 8), torch.tensor([3, 500]), torch.tensor([1, 2]))


def pixart():
    from diffusers import PixArtTransformer2DModel

    network = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=3,
        out_channels=3,
        num_layers=2,
        cross_attention_dim=16,
        caption_channels=12,
        sample_size=8,
        use_additional_conditions=False,
    )
    return network, (torch.randn(2, 3, 8, 8), torch.randn(2, 5, 12), torch.tensor([3, 500]))


def unet():
    """Stable Diffusion's shape: cross attention, GEGLU, ResNet blocks."""
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return network, (torch.randn(2, 4, 8, 8), torch.tensor(3), torch.randn(2, 5, 16))


def clip():
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=99,
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
    )
    return CLIPTextModel(config), (torch.randint(2, 99, (2, 8)),)


def encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 64, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, 2), (torch.randn(2, 5, 16),)


def sequential():
    network = nn.Sequential(
        nn.Linear(8, 64), nn.SiLU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 3)
    )
    return network, (torch.randn(100, 8),)


NETWORKS = {made.__name__: made for made in (dit, pixart, unet, clip, encoder, sequential)}
BLOCKS = {"dit": 2, "pixart": 2, "unet": 4, "clip": 2, "encoder": 2, "sequential": 2}
"""Number of feed-forward blocks of each."""


def make(name, seed=0):
    """A network by name in evaluation mode, and a call, drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, call = NETWORKS[name]()
    return network.eval(), call


@torch.no_grad()
def output(network, call):
    """The first output of a network."""
    found = network(*call)
    return found if isinstance(found, Tensor) else found[0]


def change(before, after):
    """Root mean square of a difference, as a share."""
    return float((before.double() - after.double()).norm() / before.double().norm())


def in_both_ways(network):
    """Makes the first block grouped, and then the others full."""
    first, *others = (path for path, block in find_blocks(network).items() if not block.embedding)
    kanify(network, layers=first, generator=seeded())
    kanify(network, layers=others, kind="full", generator=seeded())


def loss_of(network, call):
    found = network(*call)
    return (found if isinstance(found, Tensor) else found[0]).square().mean()


def gradients(network, call):
    network.zero_grad()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # class labels are dropped at random
        loss_of(network, call).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
