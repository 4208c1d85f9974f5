"""A pretrained Stable Diffusion becomes a KAN, and draws what it drew before.

    python examples/kanify.py stable-diffusion-v1-5/stable-diffusion-v1-5 my-kan

reads the first and writes the second, a folder that ``StableDiffusionPipeline.from_pretrained``
reads where ``kan_diffusion.kanified`` has been imported, to be fine-tuned as any other.
"""

import sys

from diffusers import StableDiffusionPipeline

from kan_diffusion import kanify

pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipeline.unet, report = kanify(pipeline.unet, keep_function=True)
print(report)
pipeline.save_pretrained(sys.argv[2])
