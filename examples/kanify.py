"""Turns the U-Net of a pretrained Stable Diffusion into a KAN that draws what it drew before.

    python examples/kanify.py stable-diffusion-v1-5/stable-diffusion-v1-5 my-kan

writes the U-Net alone. To fine-tune it, or to draw with it:

    from kan_diffusion import load_kanified

    unet = load_kanified("my-kan")
    pipeline = StableDiffusionPipeline.from_pretrained("stable-diffusion-v1-5/...", unet=unet)
"""

import sys

from diffusers import UNet2DConditionModel

from kan_diffusion import kanify, save_kanified

unet = UNet2DConditionModel.from_pretrained(sys.argv[1], subfolder="unet")
unet, report = kanify(unet, keep_function=True)
print(report)
save_kanified(unet, sys.argv[2])
