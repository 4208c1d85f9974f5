r"""Sampling: diffusers pipelines that turn noise into samples, points in the data's own units.

A pipeline is a denoiser and the process that it was trained for. Any diffusers scheduler that fits
the process can drive it; :data:`SCHEDULERS` lists those that have a name on the command line::

    pipeline.scheduler = make_scheduler("heun", pipeline.process)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)

Settings of a scheduler that nobody chose are set as the process needs them, and a scheduler of
another process is refused.

The flow schedulers of diffusers count timesteps from 1 to T, all others and the denoisers from 0 to
T - 1; the pipeline subtracts the 1.
"""

from __future__ import annotations

import inspect
import math
import reprlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from kan_diffusion.data.scaling import Standardizer

# Imports the whole package: the class of a saved denoiser is found only if it is imported.
from kan_diffusion.denoisers import Denoiser, PointDenoiser
from kan_diffusion.errors import (
    KanDiffusionError,
    NonFiniteSamplesError,
    RunFolderError,
    look_up,
    require_whole,
    valid_settings,
)
from kan_diffusion.files import inside, read_json
from kan_diffusion.limits import MOST_VALUES
from kan_diffusion.processes import Process

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
    "prediction_type",
)
_OF_EVERY_SAMPLER = {"clip_sample": False, "thresholding": False, "timestep_spacing": "trailing"}
_OF_ONE_SAMPLER: Mapping[type[SchedulerMixin], Mapping[str, object]] = {
    DDPMScheduler: {"variance_type": "fixed_large"},
    # Steps even in the log-SNR (Lu et al. 2022, arXiv:2211.01095). With twenty steps even in time,
    # the last step goes from too much noise straight to data, and even the exact denoiser's points
    # end up too close together.
    DPMSolverMultistepScheduler: {"use_lu_lambdas": True},
    # Heun's method steps in sigma / alpha, which near pure noise grows a thousandfold within a few
    # timesteps: steps even in its logarithm are stable, steps even in time are not.
    HeunDiscreteScheduler: {"use_exponential_sigmas": True},
    UniPCMultistepScheduler: {"use_exponential_sigmas": True},
    PNDMScheduler: {"skip_prk_steps": True},  # the first of which divides by hardly any signal
}
_SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
"""Settings of which a sampler takes at most one."""

StepCallback = Callable[
    [DiffusionPipeline, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None
]

Prediction = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]
"""A prediction for noised samples at a timestep under conditions."""

_REMEDY = "train it again"


def fitting_samplers(process: Process) -> list[str]:
    """Lists the samplers that fit a process, the default first."""
    return [name for name, kind in SCHEDULERS.items() if issubclass(kind, _FLOW) == process.is_flow]


def even_sampler(process: Process) -> str:
    """Names the deterministic sampler whose steps are even in time."""
    return "flow-euler" if process.is_flow else "ddim"


def make_scheduler(name: str | None, process: Process) -> SchedulerMixin:
    """Makes a scheduler of a process by name.

    Args:
        name: A key of :data:`SCHEDULERS`; the process's default when None.
        process: The process.

    Raises:
        KanDiffusionError: There is no such scheduler, or it does not fit the process.
    """
    fitting = fitting_samplers(process)
    name = fitting[0] if name is None else name
    kind = look_up("scheduler", name, SCHEDULERS)
    if name not in fitting:
        raise KanDiffusionError(
            f"scheduler '{name}' does not fit this process; known for it: {', '.join(fitting)}"
        )
    return _of_process(kind(), process)


def _of_process(scheduler: SchedulerMixin, process: Process) -> SchedulerMixin:
    """Makes a fresh scheduler with the settings of another and, where nobody chose, the process's.

    Raises:
        KanDiffusionError: It is no sampler of the process.
    """
    kind, given, right = type(scheduler), scheduler.config, process.scheduler()
    accepted = inspect.signature(kind.__init__).parameters
    unchosen = {"_use_default_values", *given.get("_use_default_values", [])}
    chosen = {key: value for key, value in given.items() if key not in unchosen}
    spaced = any(chosen.get(name) for name in _SPACINGS if name in accepted)
    alone = {} if spaced else _OF_ONE_SAMPLER.get(kind, {})
    theirs = {key: right.config[key] for key in _OF_THE_PROCESS if key in right.config}
    usual = {**theirs, **_OF_EVERY_SAMPLER, **alone}
    usual = {key: value for key, value in usual.items() if key in accepted}
    result: SchedulerMixin = kind.from_config({**usual, **chosen})
    # A sampler that is made from this one's settings has spacings of its own.
    defaults = {*result.config.get("_use_default_values", []), *(alone.keys() - chosen.keys())}
    result.register_to_config(_use_default_values=sorted(defaults))
    levels = [getattr(one, "alphas_cumprod", torch.empty(0)) for one in (result, right)]
    times = getattr(result, "timesteps", None)
    if (
        isinstance(result, _FLOW) != process.is_flow
        or not theirs.keys() <= accepted.keys()
        or result.config.get("prediction_type") != theirs.get("prediction_type")
        or result.config.num_train_timesteps != process.num_timesteps
        or not torch.equal(*levels)
        or (times is not None and times[0] < times[-1])  # from data to noise
    ):
        wanted = "flow matching" if process.is_flow else "diffusion"
        raise KanDiffusionError(
            f"the denoiser was trained for {wanted} and {kind.__name__} with these settings is no "
            f"sampler of its process '{process.name}'; make one with make_scheduler"
        )
    return result


@dataclass
class PointDiffusionPipelineOutput(BaseOutput):
    """Output of the pipeline.

    Attributes:
        samples: Points with shape (num_samples, d), in the data's own units.

    Example:
        >>> from kan_diffusion import PointDiffusionPipeline, build_denoiser, get_process
        >>> denoiser = build_denoiser("mlp", 2, num_train_timesteps=1000, hidden=[8])
        >>> PointDiffusionPipeline(denoiser, get_process("cosine"))(100).samples.shape
        torch.Size([100, 2])
    """

    samples: Tensor


class SamplePipeline(DiffusionPipeline):
    """Base of the pipelines: draws samples of any shape from a trained denoiser.

    Attributes:
        denoiser: The trained network.
        process: The process that it was trained for.
        scheduler: Any diffusers scheduler of that process. It is not saved, since a file would
            choose its class: a pipeline that is read has the process's default.

    Example:
        >>> import kan_diffusion as kd
        >>> denoiser = kd.build_denoiser("mlp", 2, num_train_timesteps=1000, hidden=[8])
        >>> pipeline = kd.PointDiffusionPipeline(denoiser, kd.get_process("cosine"))
        >>> pipeline.scheduler = kd.make_scheduler("heun", pipeline.process)
    """

    model_cpu_offload_seq = "denoiser"
    _optional_components: list[str] = []  # noqa: RUF012  # diffusers declares it so
    _denoiser_class: ClassVar[type[Denoiser]] = Denoiser
    process: Process
    scheduler: SchedulerMixin

    def _setup_sampling(
        self,
        denoiser: Denoiser,
        process: Process | Mapping[str, object] | None,
        scheduler: SchedulerMixin | str | None,
        **parts: object,
    ) -> None:
        """Registers the parts; the scheduler may be a name, and is the default when None."""
        if process is None:  # diffusers loads arguments without default as modules
            raise KanDiffusionError("a pipeline needs the process of its denoiser; give it")
        with valid_settings("the process of a pipeline"):
            self.process = Process.model_validate(process)
        denoiser.require_process(self.process)
        self.register_modules(denoiser=denoiser, **parts)
        self.register_to_config(process=self.process.model_dump(mode="json"))
        if scheduler is None or isinstance(scheduler, str):
            scheduler = make_scheduler(scheduler, self.process)
        self.scheduler = scheduler
        self.set_progress_bar_config(disable=True)  # samples are drawn in seconds

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        **parts: object,
    ) -> Self:
        """Reads a pipeline that ``save_pretrained`` wrote, after checking all of it.

        Only local files are read, in JSON and safetensors, and nothing is imported.

        Args:
            pretrained_model_name_or_path: Its folder.
            dtype: Dtype of the denoiser; as saved when None.
            torch_dtype: The same, as diffusers calls it.
            **parts: Arguments of the class in place of saved ones, such as your own ``denoiser``.

        Raises:
            RunFolderError: The folder or a file in it is missing, damaged or of another pipeline.
            KanDiffusionError: The class has no such argument, or the parts do not fit.
        """
        root = Path(pretrained_model_name_or_path)
        known = inspect.signature(cls.__init__).parameters.keys() - {"self"}
        if unknown := sorted(parts.keys() - known):
            raise KanDiffusionError(
                f"{cls.__name__} has no argument '{unknown[0]}'; it has "
                f"{', '.join(sorted({'dtype', *known}))}"
            )
        index = read_json(root / cls.config_name, "the index of a pipeline", _REMEDY)
        if index.get("_class_name") != cls.__name__:
            raise RunFolderError(
                f"'{root / cls.config_name}' is of class {index.get('_class_name')!r}, not a "
                f"{cls.__name__}; read it with its own class"
            )
        process = index.get("process")
        given = process.keys() if isinstance(process, dict) else ()
        if left := sorted(Process.model_fields.keys() - given):
            raise RunFolderError(
                f"the process in '{root / cls.config_name}' has no '{left[0]}'; {_REMEDY}"
            )
        remedy = f"give no {' or '.join(parts)} or {_REMEDY}" if parts else _REMEDY
        if parts.get("denoiser") is None:
            kind = cls._saved_class(root, index.get("denoiser"))
            folder = inside(root, "denoiser")
            parts["denoiser"] = kind.from_pretrained(folder, dtype=dtype or torch_dtype)
        names = known - set(cls._optional_components)
        saved = {name: value for name, value in index.items() if name in names}
        try:
            return cls(**{**saved, **parts})
        except (KanDiffusionError, ValueError, TypeError, LookupError) as error:
            raise RunFolderError(f"'{root / cls.config_name}': {error}; {remedy}") from error

    @classmethod
    def _saved_class(cls, root: Path, saved: object) -> type[Denoiser]:
        """Finds the class of a saved denoiser among the modules that are already imported."""
        match saved:
            case [str(library), str(class_name)]:
                kind = getattr(sys.modules.get(library), class_name, None)
                if isinstance(kind, type) and issubclass(kind, cls._denoiser_class):
                    return kind
                raise RunFolderError(
                    f"the denoiser in '{root}' is a '{class_name}' of '{library}', which is not "
                    f"known; if it is your own, import {library} first"
                )
        raise RunFolderError(f"the index of '{root}' does not name its denoiser; {_REMEDY}")

    @classmethod
    def from_pipe(cls, pipeline: SamplePipeline, **parts: object) -> Self:
        """Makes a pipeline with the parts and the scheduler of another.

        Args:
            pipeline: The other pipeline.
            **parts: Arguments of the class that differ.
        """
        names = inspect.signature(cls.__init__).parameters
        theirs = {**pipeline.config, **pipeline.components, "scheduler": pipeline.scheduler}
        arguments = {name: value for name, value in theirs.items() if name in names}
        return cls(**{**arguments, **parts})

    def _draw_all(
        self,
        num_samples: int,
        num_inference_steps: int,
        generator: torch.Generator | list[torch.Generator] | None,
        conditions: Mapping[str, Tensor],
        batch_size: int,
        callback: StepCallback | None,
        predict: Prediction | None = None,
    ) -> Tensor:
        """Draws standardised samples with shape (num_samples, *shape), in batches.

        Args:
            num_samples: How many.
            num_inference_steps: Steps of the scheduler.
            generator: Source of the noise, or a list of one per sample.
            conditions: Conditions by name, one per sample.
            batch_size: Largest number of samples drawn at once.
            callback: Called after every step of each batch.
            predict: What predicts in the denoiser's place; the denoiser when None.
        """
        self._require_sampler(num_samples, num_inference_steps, batch_size)
        if isinstance(generator, list) and len(generator) != num_samples:
            raise KanDiffusionError(
                f"generator must be one or a list of {num_samples}, one a sample, not of "
                f"{len(generator)}"
            )
        for one in generator if isinstance(generator, list) else [generator]:
            if one is not None and not isinstance(one, torch.Generator):
                raise KanDiffusionError(
                    f"generator must be one of torch, such as torch.Generator().manual_seed(0), "
                    f"not {reprlib.repr(one)}"
                )

        def notify(index: int, timestep: Tensor, sample: Tensor) -> Tensor:
            if callback is None:
                return sample
            returned = callback(self, index, timestep, {"sample": sample})
            return sample if returned is None else returned.get("sample", sample)

        was_training = self.denoiser.training
        self.denoiser.eval()
        try:
            batches = []
            for start in range(0, num_samples, batch_size):
                part = slice(start, min(start + batch_size, num_samples))
                batches.append(
                    self._draw(
                        part.stop - start,
                        num_inference_steps,
                        generator[part] if isinstance(generator, list) else generator,
                        {name: values[part] for name, values in conditions.items()},
                        predict or self._predict,
                        notify,
                    )
                )
        finally:
            self.denoiser.train(was_training)
        return torch.cat(batches)

    def _require_sampler(self, num_samples: int, num_steps: int, batch_size: int) -> None:
        """Checks the numbers of a call."""
        require_whole("num_samples", num_samples)
        require_whole("num_inference_steps", num_steps, 1, self.process.num_timesteps)
        require_whole("batch_size", batch_size)
        num_values = num_samples * math.prod(self.denoiser.sample_shape)
        if num_values > MOST_VALUES:
            raise KanDiffusionError(
                f"{num_samples:,} samples are {num_values:,} values; draw at most {MOST_VALUES:,} "
                "at once"
            )

    def _draw(
        self,
        num_samples: int,
        num_inference_steps: int,
        generator: torch.Generator | list[torch.Generator] | None,
        conditions: Mapping[str, Tensor],
        predict: Prediction,
        notify: Callable[[int, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Draws one batch of standardised samples with shape (num_samples, *shape)."""
        scheduler = self._fresh_scheduler(num_inference_steps)
        options = {}
        if "generator" in inspect.signature(scheduler.step).parameters:
            options["generator"] = generator
        is_flow, times = isinstance(scheduler, _FLOW), scheduler.timesteps
        shape = (num_samples, *self.denoiser.sample_shape)
        sample = randn_tensor(
            shape, generator=generator, device=self.device, dtype=self.denoiser.dtype
        )
        if not is_flow:  # so that the denoiser's first input is the noise
            sample = sample / scheduler.scale_model_input(sample.new_ones(()), times[0])
        finite = []  # checked at the end, so that a GPU need not wait at each step
        with self.progress_bar(total=len(times)) as bar:
            for index, timestep in enumerate(times):
                model_input = sample if is_flow else scheduler.scale_model_input(sample, timestep)
                at = timestep - 1 if is_flow else timestep
                prediction = predict(model_input, at, conditions)
                step = scheduler.step(prediction, timestep, sample, **options)
                # The last step adds no noise (Ho et al. 2020, algorithm 2); diffusers leaves it out
                # at timestep 0 alone.
                is_last = isinstance(scheduler, DDPMScheduler) and index == len(times) - 1
                sample = step.pred_original_sample if is_last else step.prev_sample
                sample = notify(index, timestep, sample)
                finite.append(sample.isfinite().all())
                bar.update()
        if not finite[-1]:
            first = int(torch.stack(finite).int().argmin())
            raise NonFiniteSamplesError(
                f"the samples became infinite or NaN at timestep "
                f"{float(times[first]):g}, step {first + 1} of {len(finite)}; take "
                "more steps or another scheduler, or train longer"
            )
        observed = conditions.get("observed")
        return sample if observed is None else torch.where(observed.isnan(), sample, observed)

    def _fresh_scheduler(self, num_steps: int) -> SchedulerMixin:
        """Makes a scheduler that stands before its first step.

        Multistep schedulers carry state from step to step, so each batch has a fresh one.
        """
        scheduler = _of_process(self.scheduler, self.process)
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            # Even steps down to 0: by itself it would begin the last one at the first noise level.
            sigmas = np.linspace(1, 1 / num_steps, num_steps)
            scheduler.set_timesteps(sigmas=sigmas.tolist(), device=self.device)
        else:
            scheduler.set_timesteps(num_steps, device=self.device)
        if hasattr(scheduler, "set_begin_index"):  # timesteps that are rounded may repeat
            scheduler.set_begin_index(0)
        return scheduler

    def _predict(
        self, sample: Tensor, timestep: Tensor, conditions: Mapping[str, Tensor]
    ) -> Tensor:
        prediction: Tensor = self.denoiser(sample, timestep, **conditions, return_dict=False)[0]
        return prediction


class PointDiffusionPipeline(SamplePipeline):
    """Draws points from a trained denoiser.

    Args:
        denoiser: The trained network.
        process: The process it was trained for, or its settings.
        mean: Centre of the data, d numbers, by which standardised points are moved back.
        scale: Scale of the data, d numbers.
        columns: Names of the coordinates.
        scheduler: Any diffusers scheduler of the process, or a name; its default when None.

    Attributes:
        standardizer: The map between the data's units and standardised ones.
        columns: Names of the coordinates.

    Raises:
        KanDiffusionError: Mean, scale or columns are not d finite numbers or names, a scale is not
            positive, or the denoiser is one for another process.

    Example:
        >>> from kan_diffusion import PointDiffusionPipeline, build_denoiser, get_process
        >>> denoiser = build_denoiser("mlp", 2, num_train_timesteps=1000, hidden=[8])
        >>> pipeline = PointDiffusionPipeline(denoiser, get_process("cosine"), columns=["x", "y"])
        >>> pipeline(5, generator=torch.Generator().manual_seed(0)).samples.shape
        torch.Size([5, 2])
    """

    _denoiser_class = PointDenoiser

    def __init__(
        self,
        denoiser: PointDenoiser,
        process: Process | Mapping[str, object] | None = None,
        mean: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        columns: Sequence[str] | None = None,
        scheduler: SchedulerMixin | str | None = None,
    ) -> None:
        super().__init__()
        dim = denoiser.data_dim
        standardizer = Standardizer(
            tuple(float(value) for value in (mean if mean is not None else [0.0] * dim)),
            tuple(float(value) for value in (scale if scale is not None else [1.0] * dim)),
        )
        names = list(columns) if columns is not None else [f"x{i}" for i in range(dim)]
        self._setup(denoiser, process, scheduler, standardizer, names)
        self.register_to_config(
            mean=list(standardizer.mean), scale=list(standardizer.scale), columns=names
        )

    def _setup(
        self,
        denoiser: PointDenoiser,
        process: Process | Mapping[str, object] | None,
        scheduler: SchedulerMixin | str | None,
        standardizer: Standardizer,
        columns: Sequence[str],
    ) -> None:
        """Sets the parts, but for what each class writes into the configuration in its own way."""
        self._setup_sampling(denoiser, process, scheduler)
        self.standardizer = standardizer
        self.columns = tuple(columns)
        dim = denoiser.data_dim
        distinct = {name for name in columns if isinstance(name, str)}
        if not standardizer.dim == len(columns) == len(distinct) == dim:
            raise KanDiffusionError(
                f"a denoiser of {dim} coordinates needs as many numbers of mean and scale and "
                f"distinct names of columns, as text, not {standardizer.dim} and {len(distinct)}"
            )

    @torch.no_grad()
    def __call__(
        self,
        num_samples: int,
        num_inference_steps: int = 20,
        *,
        generator: torch.Generator | list[torch.Generator] | None = None,
        observed: Tensor | None = None,
        batch_size: int = 65_536,
        callback_on_step_end: StepCallback | None = None,
        return_dict: bool = True,
    ) -> PointDiffusionPipelineOutput:
        """Draws points.

        Args:
            num_samples: How many.
            num_inference_steps: Steps of the scheduler, from 1 to the process's number of
                timesteps; Heun evaluates the denoiser twice a step.
            generator: Source of the noise, or a list of one per sample; torch's default when None.
            observed: Standardised coordinates to condition on, with shape (num_samples, d), NaN
                where a coordinate is to be drawn; samples keep the observed ones unchanged.
            batch_size: Largest number of points drawn at once.
            callback_on_step_end: Called after every step of each batch with the pipeline, the
                number of the step, its timestep and ``{"sample": points}``, (B, d) standardised;
                points that it returns in such a dictionary replace them.
            return_dict: Whether to return an output object or a tuple.

        Returns:
            Points with shape (num_samples, d) in the data's own units, float64 where the device
            supports it, on the pipeline's device.

        Raises:
            KanDiffusionError: A number of samples, steps or generators is out of range, observed
                coordinates have another shape, or the scheduler is not one of the process.
            NonFiniteSamplesError: The samples became infinite or NaN.
        """
        conditions: dict[str, Tensor] = {}
        if observed is not None:
            observed = torch.as_tensor(observed).to(self.device, self.denoiser.dtype)
            if observed.isinf().any():
                raise KanDiffusionError(
                    "observed holds infinite values; give finite ones, NaN where a coordinate is "
                    "to be drawn"
                )
            if observed.shape != (num_samples, *self.denoiser.sample_shape):
                raise KanDiffusionError(
                    f"observed must have shape {(num_samples, *self.denoiser.sample_shape)}, NaN "
                    f"where a coordinate is to be drawn, not {tuple(observed.shape)}"
                )
            conditions["observed"] = observed
        drawn = self._draw_all(
            num_samples,
            num_inference_steps,
            generator,
            conditions,
            batch_size,
            callback_on_step_end,
        )
        samples = self.standardizer.invert(drawn)
        if not return_dict:
            return (samples,)  # type: ignore[return-value]  # as all pipelines of diffusers do
        return PointDiffusionPipelineOutput(samples=samples)


def recorded_states(
    draw: Callable[..., object],
    pipeline: SamplePipeline,
    num_inference_steps: int,
    generator: torch.Generator,
) -> tuple[tuple[float, ...], Tensor]:
    """Draws samples and records the reverse process, which changes no sample.

    The states are the inputs of the denoiser: x_t of the process, whatever the sampler computes
    with. If a sampler corrects its first guess, the corrected state is recorded.

    Args:
        draw: Calls the pipeline, or one with its denoiser and process, with all other arguments.
        pipeline: The pipeline.
        num_inference_steps: Steps of the scheduler.
        generator: Source of the noise.

    Returns:
        Times (F,) as fractions of T, from 1 for noise to 0, and standardised samples with shape
        (F, n, *shape).

    Raises:
        NonFiniteSamplesError: The samples became infinite or NaN.
    """
    states: dict[float, Tensor] = {}

    def keep_input(_: object, given: tuple[Tensor, Tensor]) -> None:
        sample, timestep = given
        time = (float(timestep) + 1) / pipeline.process.num_timesteps
        # The first is the noise, although samplers round its timestep down, or that of others up.
        if time < 1 or not states:
            states[time if states else 1.0] = sample.detach().cpu().clone()

    def keep_last(_: object, index: int, timestep: Tensor, state: dict[str, Tensor]) -> None:
        states.pop(0.0, None)  # of the step before
        states[0.0] = state["sample"].cpu()

    hook = pipeline.denoiser.register_forward_pre_hook(keep_input)
    try:
        draw(
            num_inference_steps=num_inference_steps,
            generator=generator,
            batch_size=MOST_VALUES,  # in one batch
            callback_on_step_end=keep_last,
        )
    finally:
        hook.remove()
    return tuple(states), torch.stack([*states.values()])
