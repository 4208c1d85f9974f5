r"""The pipeline of pictures: prompts in, pictures out, called like diffusers' own.

Classifier-free guidance mixes a prediction with conditions and one without,
:math:`p_\varnothing + s\,(p_c - p_\varnothing)` (Ho and Salimans 2022, arXiv:2207.12598).

::

    pipeline = PictureDiffusionPipeline.from_pretrained("runs/shapes")
    pictures = pipeline("a small red circle", num_images_per_prompt=4, guidance_scale=3).images
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Literal

import torch
from diffusers import ImagePipelineOutput, SchedulerMixin
from torch import Tensor

from kan_diffusion.diffusion.sampling import SamplePipeline, StepCallback
from kan_diffusion.errors import KanDiffusionError, require_whole
from kan_diffusion.pictures.codec import decode
from kan_diffusion.pictures.denoisers import PictureDenoiser
from kan_diffusion.processes import Process

_GUIDANCE = 3.0


class PictureDiffusionPipeline(SamplePipeline):
    """Draws pictures from a trained denoiser.

    Args:
        denoiser: The trained network.
        process: The process it was trained for, or its settings.
        scheduler: Any diffusers scheduler of the process; its default when None.
        classes: Names of the classes of the pictures it was trained with, which are prompts, too.

    Raises:
        KanDiffusionError: The process is missing or wrong, or a class is no text.
    """

    _denoiser_class = PictureDenoiser

    def __init__(
        self,
        denoiser: PictureDenoiser,
        process: Process | Mapping[str, object] | None = None,
        scheduler: SchedulerMixin | str | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._setup_sampling(denoiser, process, scheduler)
        if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
            raise KanDiffusionError("classes of pictures are a list of names")
        self.register_to_config(classes=[*classes])

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        num_inference_steps: int = 20,
        *,
        num_images_per_prompt: int = 1,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        batch_size: int = 128,
        output_type: Literal["pil", "pt"] = "pil",
        callback_on_step_end: StepCallback | None = None,
        return_dict: bool = True,
    ) -> ImagePipelineOutput:
        """Draws pictures.

        Args:
            prompt: One prompt or several; an empty one or None asks for nothing.
            num_inference_steps: Steps of the scheduler.
            num_images_per_prompt: Number of pictures per prompt.
            guidance_scale: Strength of classifier-free guidance, which leads away from the empty
                prompt; 1 is the plain conditional. When None it is 3, or 1 where nothing is asked
                for.
            generator: Source of the noise, or a list of one per picture; torch's default when None.
            batch_size: Largest number of pictures drawn at once.
            output_type: ``"pil"`` for Pillow's images, ``"pt"`` for samples in [-1, 1].
            callback_on_step_end: Called after every step of each batch with the pipeline, the
                number of the step, its timestep and ``{"sample": samples}``; samples that it
                returns in such a dictionary replace them.
            return_dict: Whether to return an output object or a tuple.

        Returns:
            Its ``images``, in which pictures of one prompt are next to each other: Pillow's, or a
            tensor with shape (n, C, S, S).

        Raises:
            KanDiffusionError: A number is out of range, or a prompt too long or no text.
            NonFiniteSamplesError: The samples became infinite or NaN.
        """
        if output_type not in ("pil", "pt"):
            raise KanDiffusionError(f"output_type must be 'pil' or 'pt', not {output_type!r}")
        require_whole("num_images_per_prompt", num_images_per_prompt)
        scale = guidance_scale
        if scale is not None and not (isinstance(scale, Real) and math.isfinite(scale)):
            raise KanDiffusionError(f"guidance_scale must be a finite number, not {scale!r}")
        prompts = [prompt or ""] if prompt is None or isinstance(prompt, str) else prompt
        if not isinstance(prompts, Sequence) or not all(isinstance(text, str) for text in prompts):
            raise KanDiffusionError(f"prompt must be a text or a list of texts, not {prompt!r}")
        if not prompts:
            raise KanDiffusionError("prompt is a list without a text; give one, or None")
        tokens = self.denoiser.vocabulary.tokens(prompts).to(self.device)
        asked = tokens.repeat_interleave(num_images_per_prompt, 0)
        absent = self.denoiser.absent["input_ids"].to(self.device)
        if scale is None:
            scale = _GUIDANCE if any(prompts) else 1.0

        def guided(sample: Tensor, timestep: Tensor, given: Mapping[str, Tensor]) -> Tensor:
            prediction = self._predict(sample, timestep, given)
            if scale == 1.0:
                return prediction
            nothing = {"input_ids": absent.expand_as(given["input_ids"])}
            unconditional = self._predict(sample, timestep, nothing)
            return unconditional + scale * (prediction - unconditional)

        samples = self._draw_all(
            len(asked),
            num_inference_steps,
            generator,
            {"input_ids": asked},
            batch_size,
            callback_on_step_end,
            guided,
        )
        images = samples.clamp(-1, 1) if output_type == "pt" else decode(samples)
        if not return_dict:
            return (images,)
        return ImagePipelineOutput(images=images)
