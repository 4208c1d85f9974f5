import torch

from helpers import refused
from kan_diffusion.denoisers import build_denoiser


def test_a_size_that_no_machine_has_room_for_is_refused_before_it_is_made():
    for _ in range(2):  # also when its widths are known already
        with (
            refused("would have 1,000,.* parameters .* at most 100,000,000"),
            torch.device("meta"),
        ):
            build_denoiser("kan", 2, num_train_timesteps=1000, params=10**9)
