r"""Latents: pictures as a variational autoencoder (VAE) compresses them, and back.

With the encoder's mean :math:`\mu(x)` of a picture x in [-1, 1], a sample is

.. math:: z = s\, (\mu(x) - b), \qquad \hat x = \mathrm{decoder}(z / s + b),

with the scale s and the shift b of the autoencoder's configuration, so that z has about the spread
of noise (Rombach et al. 2022, arXiv:2112.10752). The autoencoder is diffusers' ``AutoencoderKL``.
It is not trained, and no drawn picture is better than its reconstructions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.files import read_json
from kan_diffusion.pictures.codec import PictureCodec
from kan_diffusion.weights import part_folder, require_fit, saved_shapes

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from PIL import Image

__all__ = ["LatentCodec", "read_vae"]

_AT_ONCE = 16
"""Pictures that go through the autoencoder together."""

_FORMER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the maps of attention in files of diffusers before 0.18, which it still reads."""

_OLD_NAME = re.compile(rf"(\.attentions\.\d+\.)({'|'.join(_FORMER)})\.")


def read_vae(folder: str | Path) -> AutoencoderKL:
    """Reads an autoencoder from a local folder, after checking it.

    Args:
        folder: Its folder, or a folder that holds it as ``vae``, such as Stable Diffusion's.

    Returns:
        The autoencoder, float32 and in eval mode, without gradients.

    Raises:
        RunFolderError: The folder or a file in it is missing, damaged or of another network.
    """
    from diffusers import AutoencoderKL

    root = part_folder(Path(folder), "vae")
    remedy = "give a folder of diffusers' AutoencoderKL"
    path = root / "config.json"
    config = read_json(path, "the configuration of an autoencoder", remedy)
    found = {
        _OLD_NAME.sub(lambda name: f"{name[1]}{_FORMER[name[2]]}.", name): shape
        for name, shape in saved_shapes(root, "diffusion_pytorch_model").items()
    }
    for name in ("layers_per_block", "block_out_channels", "down_block_types", "up_block_types"):
        value = config.get(name)
        count = len(value) if isinstance(value, list) else value
        if isinstance(count, int) and count > len(found):  # building so many would take for ever
            raise RunFolderError(
                f"'{path}': {name} speaks of {count:,} layers and there are weights of "
                f"{len(found)} tensors; {remedy}"
            )
    require_fit(AutoencoderKL, config, found, path, remedy)
    options = {"use_safetensors": True, "local_files_only": True, "torch_dtype": torch.float32}
    try:
        vae: AutoencoderKL = AutoencoderKL.from_pretrained(root, **options)
    except (ValueError, TypeError, OSError, RuntimeError, LookupError) as error:
        raise RunFolderError(f"'{root}' cannot be read ({error}); {remedy}") from error
    return vae.eval().requires_grad_(False)


class LatentCodec:
    """Turns pictures into latents of an autoencoder and back.

    Args:
        pictures: The map between pictures and samples of pixels.
        vae: The autoencoder.

    Raises:
        KanDiffusionError: The autoencoder takes another number of channels, or its factor does not
            divide the pictures' side.
    """

    def __init__(self, pictures: PictureCodec, vae: AutoencoderKL) -> None:
        self.pictures = pictures
        self.vae = vae
        channels, side, _ = pictures.shape
        factor = self.factor(vae)
        if not vae.config.in_channels == vae.config.out_channels == channels:
            raise KanDiffusionError(
                f"the autoencoder takes {vae.config.in_channels} channels and pictures of mode "
                f"{pictures.mode} have {channels}; choose another mode"
            )
        if side % factor:
            raise KanDiffusionError(
                f"the autoencoder makes one latent of {factor} x {factor} pixels, which do not "
                f"divide pictures of {side}; choose another size"
            )

    @staticmethod
    def factor(vae: AutoencoderKL) -> int:
        """Number of pixels along a side for each latent."""
        return 2 ** (len(vae.config.block_out_channels) - 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, S, S) of the latents of a picture."""
        side = self.pictures.size // self.factor(self.vae)
        return self.vae.config.latent_channels, side, side

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Turns n pictures of any size and mode into latents with shape (n, C, S, S).

        Raises:
            DataError: There is no picture, or one has values of 32 bits.
        """
        return self.from_pixels(self.pictures.encode(pictures))

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Turns latents with shape (n, C, S, S) into pictures.

        Raises:
            DataError: The shape is another one, or a value is not finite.
        """
        return self.pictures.decode(self.to_pixels(latents))

    @torch.no_grad()
    def from_pixels(self, samples: Tensor) -> Tensor:
        """Turns samples of pixels, shape (n, C, P, P), from -1 to 1, into latents."""
        parts = samples.to(self.vae.dtype).split(_AT_ONCE)
        means = torch.cat([
            self.vae.encode(part.to(self.vae.device)).latent_dist.mean.to(samples.device)
            for part in parts
        ])  # fmt: skip
        scale, shift = self._scale_and_shift
        return (means - shift) * scale

    @torch.no_grad()
    def to_pixels(self, latents: Tensor) -> Tensor:
        """Turns latents into samples of pixels with shape (n, C, P, P), about from -1 to 1."""
        scale, shift = self._scale_and_shift
        parts = (part.to(self.vae.device, self.vae.dtype) for part in latents.split(_AT_ONCE))
        pixels = [self.vae.decode(part / scale + shift).sample for part in parts]
        return torch.cat(pixels).to(latents.device)

    @property
    def _scale_and_shift(self) -> tuple[float, float]:
        config = self.vae.config
        return config.scaling_factor, config.shift_factor or 0.0
