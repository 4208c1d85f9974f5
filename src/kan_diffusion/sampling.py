r"""Sampling: a diffusers pipeline that turns noise into points, in the data's own units.

Any diffusers scheduler that fits the process drives it; those the command line knows by name are in
:data:`SCHEDULERS`. The scheduler of a loaded pipeline can be replaced::

    pipeline.scheduler = make_scheduler("heun", pipeline.scheduler)

The flow schedulers of diffusers count timesteps from 1 to T, all others and the denoisers from 0 to
T - 1; the pipeline takes the 1 off.

Classifier-free guidance mixes a prediction with a label and one without,
:math:`p_\varnothing + s\,(p_c - p_\varnothing)` (Ho and Salimans 2022, arXiv:2207.12598).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

# All of the package: diffusers finds the class of a saved denoiser only if it is imported.
from kan_diffusion.denoisers import UNLABELLED, Denoiser
from kan_diffusion.errors import KanDiffusionError, look_up

__all__ = [
    "SCHEDULERS",
    "PointDiffusionPipeline",
    "PointDiffusionPipelineOutput",
    "fitting_samplers",
    "make_scheduler",
]

SCHEDULERS: Mapping[str, type[SchedulerMixin]] = {
    "dpm-solver++": DPMSolverMultistepScheduler,
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "heun": HeunDiscreteScheduler,
    "unipc": UniPCMultistepScheduler,
    "flow-heun": FlowMatchHeunDiscreteScheduler,
    "flow-euler": FlowMatchEulerDiscreteScheduler,
}
"""Samplers by name. For diffusion: DPM-Solver++ (second order, multistep), ancestral DDPM, DDIM,
Heun's method and UniPC; for flow matching: Heun's and Euler's method. The first of each is the
default."""

_FLOW = FlowMatchEulerDiscreteScheduler | FlowMatchHeunDiscreteScheduler

_OF_THE_PROCESS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
)
_OF_EVERY_SAMPLER = {"clip_sample": False, "thresholding": False, "timestep_spacing": "trailing"}
_OF_ONE_SAMPLER: Mapping[str, Mapping[str, object]] = {
    "ddpm": {"variance_type": "fixed_large"},
    # Steps even in the log-SNR (Lu et al. 2022, arXiv:2211.01095): with twenty steps even in time
    # the last one, from too much noise straight to data, draws even the exact denoiser's points
    # too close together.
    "dpm-solver++": {"use_lu_lambdas": True},
    # Heun's method steps in sigma / alpha, which near pure noise grows a thousandfold within a few
    # timesteps: steps even in its logarithm are stable, steps even in time are not.
    "heun": {"use_exponential_sigmas": True},
}

StepCallback = Callable[["PointDiffusionPipeline", int, Tensor, dict[str, Tensor]], None]


def fitting_samplers(like: SchedulerMixin) -> list[str]:
    """Names of the samplers that fit the process another scheduler stands for, the default first.

    Args:
        like: A scheduler of the process, such as ``process.scheduler()``.
    """
    is_flow = isinstance(like, _FLOW)
    return [name for name, kind in SCHEDULERS.items() if issubclass(kind, _FLOW) == is_flow]


def make_scheduler(name: str | None, like: SchedulerMixin) -> SchedulerMixin:
    """Makes a fresh scheduler by name, for the process another scheduler stands for.

    Args:
        name: A key of :data:`SCHEDULERS`; the process's default when None.
        like: A scheduler with the schedule and the prediction type to keep.

    Raises:
        KanDiffusionError: There is no such scheduler, or it does not fit the process.
    """
    fitting = fitting_samplers(like)
    name = fitting[0] if name is None else name
    kind = look_up("scheduler", name, SCHEDULERS)
    if name not in fitting:
        raise KanDiffusionError(
            f"scheduler '{name}' does not fit this process; known for it: {', '.join(fitting)}"
        )
    accepted = inspect.signature(kind.__init__).parameters
    config = {key: like.config[key] for key in _OF_THE_PROCESS if key in like.config}
    config |= {**_OF_EVERY_SAMPLER, **_OF_ONE_SAMPLER.get(name, {})}
    return kind(**{key: value for key, value in config.items() if key in accepted})


@dataclass
class PointDiffusionPipelineOutput(BaseOutput):
    """Output of the pipeline.

    Attributes:
        samples: Points with shape (num_samples, d), in the data's own units.
    """

    samples: Tensor


class PointDiffusionPipeline(DiffusionPipeline):
    """Draws points from a trained denoiser.

    Args:
        denoiser: The trained network.
        scheduler: Any diffusers scheduler of the process the denoiser was trained for.
        mean: Centre of the data, d numbers, by which standardised points are moved back.
        scale: Scale of the data, d numbers.
        columns: Names of the coordinates.
    """

    model_cpu_offload_seq = "denoiser"
    _optional_components: list[str] = []  # noqa: RUF012  # diffusers declares it so

    def __init__(
        self,
        denoiser: Denoiser,
        scheduler: SchedulerMixin,
        mean: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(denoiser=denoiser, scheduler=scheduler)
        self.set_progress_bar_config(disable=True)  # points are drawn in seconds
        dim = denoiser.data_dim
        self.register_to_config(
            mean=[float(value) for value in (mean if mean is not None else [0.0] * dim)],
            scale=[float(value) for value in (scale if scale is not None else [1.0] * dim)],
            columns=list(columns) if columns is not None else [f"x{i}" for i in range(dim)],
        )

    @overload
    def __call__(
        self,
        num_samples: int,
        num_inference_steps: int = ...,
        *,
        generator: torch.Generator | None = ...,
        class_labels: Tensor | Sequence[int] | int | None = ...,
        guidance_scale: float = ...,
        batch_size: int = ...,
        callback_on_step_end: StepCallback | None = ...,
        return_dict: Literal[True] = ...,
    ) -> PointDiffusionPipelineOutput: ...

    @overload
    def __call__(
        self,
        num_samples: int,
        num_inference_steps: int = ...,
        *,
        generator: torch.Generator | None = ...,
        class_labels: Tensor | Sequence[int] | int | None = ...,
        guidance_scale: float = ...,
        batch_size: int = ...,
        callback_on_step_end: StepCallback | None = ...,
        return_dict: Literal[False],
    ) -> tuple[Tensor]: ...

    @torch.no_grad()
    def __call__(
        self,
        num_samples: int,
        num_inference_steps: int = 20,
        *,
        generator: torch.Generator | None = None,
        class_labels: Tensor | Sequence[int] | int | None = None,
        guidance_scale: float = 1.0,
        batch_size: int = 65_536,
        callback_on_step_end: StepCallback | None = None,
        return_dict: bool = True,
    ) -> PointDiffusionPipelineOutput | tuple[Tensor]:
        """Draws points.

        Args:
            num_samples: How many.
            num_inference_steps: Steps of the scheduler; Heun evaluates the denoiser twice a step.
            generator: Where the noise comes from; torch's default when None.
            class_labels: One label for all points or one each, with shape (num_samples,).
            guidance_scale: Strength s of classifier-free guidance; 1 is the plain conditional.
            batch_size: Largest number of points moved at once.
            callback_on_step_end: Called after every step of each batch with the pipeline, the
                number of the step, its timestep and ``{"sample": points}``, (B, d) standardised.
            return_dict: Whether to return an output object or a tuple.

        Returns:
            Points with shape (num_samples, d) in the data's own units, float32, on the pipeline's
            device.

        Raises:
            KanDiffusionError: A number of samples or steps below 1, or labels the denoiser does
                not know.
        """
        if num_samples < 1 or num_inference_steps < 1 or batch_size < 1:
            raise KanDiffusionError(
                "sampling needs at least 1 sample, 1 step and batches of 1, not "
                f"{num_samples}, {num_inference_steps} and {batch_size}"
            )
        labels = None
        if class_labels is not None:
            labels = torch.as_tensor(class_labels, device=self.device)
            if labels.numel() not in (1, num_samples):
                raise KanDiffusionError(
                    f"class_labels must be one label or one for each of the {num_samples} samples, "
                    f"not {labels.numel()}"
                )
            labels = labels.reshape(-1).expand(num_samples)
            self.denoiser.require_labels(labels)
        batches = []
        self.denoiser.eval()
        for start in range(0, num_samples, batch_size):
            stop = min(start + batch_size, num_samples)
            batches.append(
                self._draw(
                    stop - start,
                    num_inference_steps,
                    generator,
                    None if labels is None else labels[start:stop],
                    guidance_scale,
                    callback_on_step_end,
                )
            )
        standardised = torch.cat(batches)
        samples = standardised * standardised.new_tensor(self.config.scale)
        samples = samples + standardised.new_tensor(self.config.mean)
        return PointDiffusionPipelineOutput(samples=samples) if return_dict else (samples,)

    def _draw(
        self,
        num_samples: int,
        num_inference_steps: int,
        generator: torch.Generator | None,
        labels: Tensor | None,
        guidance_scale: float,
        callback: StepCallback | None,
    ) -> Tensor:
        """Draws one batch of standardised samples with shape (num_samples, *shape)."""
        # Multistep schedulers carry state from step to step: a fresh one every time.
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        scheduler.set_timesteps(num_inference_steps, device=self.device)
        options = {}
        if "generator" in inspect.signature(scheduler.step).parameters:
            options["generator"] = generator
        is_flow = isinstance(scheduler, _FLOW)
        shape = (num_samples, *self.denoiser.sample_shape)
        sample = randn_tensor(
            shape, generator=generator, device=self.device, dtype=self.denoiser.dtype
        )
        if not is_flow:
            sample = sample * scheduler.init_noise_sigma
        for index, timestep in enumerate(scheduler.timesteps):
            model_input = sample if is_flow else scheduler.scale_model_input(sample, timestep)
            at = timestep - 1 if is_flow else timestep
            prediction = self._predict(model_input, at, labels, guidance_scale)
            sample = scheduler.step(prediction, timestep, sample, **options).prev_sample
            if callback is not None:
                callback(self, index, timestep, {"sample": sample})
        return sample

    def _predict(
        self, sample: Tensor, timestep: Tensor, labels: Tensor | None, guidance_scale: float
    ) -> Tensor:
        prediction: Tensor = self.denoiser(sample, timestep, labels, return_dict=False)[0]
        if labels is None or guidance_scale == 1.0:
            return prediction
        none = torch.full_like(labels, UNLABELLED)
        unconditional = self.denoiser(sample, timestep, none, return_dict=False)[0]
        return unconditional + guidance_scale * (prediction - unconditional)
