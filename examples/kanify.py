"""Turns a pretrained Stable Diffusion into a KAN that draws what it drew before.

    python examples/kanify.py stable-diffusion-v1-5/stable-diffusion-v1-5 my-kan

reads the first pipeline and writes the second, a folder that
``StableDiffusionPipeline.from_pretrained`` reads after ``import kan_diffusion.kanified``. It can be
fine-tuned like any other pipeline.
"""

import sys

from diffusers import StableDiffusionPipeline

from kan_diffusion import kanify

pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipeline.unet, report = kanify(pipeline.unet, keep_function=True)
print(report)
pipeline.save_pretrained(sys.argv[2])
