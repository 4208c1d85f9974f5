r"""Bases of all denoisers: the diffusers interface, conditions and checked loading from files.

A denoiser is a function of a noised sample of any shape, the timestep and conditions c,

.. math:: (x_t, t, c) \mapsto \mathrm{prediction}.

Every condition may be absent; without any, the denoiser is the unconditional model of
classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598). The process, not the network,
determines what is predicted: noise, velocity or clean samples.

A denoiser of points may be conditioned on the clean values o of some coordinates, the *observed*
ones. These replace the noised ones, and a mask m marks them:

.. math:: (x_t, t, o) \mapsto \mathrm{net}\big(m \odot o + (1 - m) \odot x_t,\; t,\; m\big).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from diffusers import ConfigMixin, ModelMixin  # see the note in Denoiser
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.processes import Process
from kan_diffusion.weights import SavedNetwork, denoiser_settings

__all__ = ["Denoiser", "DenoiserOutput", "ModelMixin", "PointDenoiser"]


@dataclass
class DenoiserOutput(BaseOutput):
    """Output of a denoiser.

    Attributes:
        sample: The prediction, with the shape (B, *shape) of the noised samples.

    Example:
        >>> from kan_diffusion.denoisers import build_denoiser
        >>> denoiser = build_denoiser("mlp", 2, num_train_timesteps=1000, hidden=[8])
        >>> denoiser(torch.zeros(5, 2), 10).sample.shape
        torch.Size([5, 2])
    """

    sample: Tensor


class Denoiser(ModelMixin, ConfigMixin):
    """Base of the denoisers of samples of any shape.

    A subclass registers its configuration and defines ``sample_shape``, ``size_of``, ``flops``,
    ``reset_parameters`` and ``forward``, which takes noised samples (B, *shape), a timestep for all
    or one each, conditions by name and ``return_dict``, and returns a :class:`DenoiserOutput` or a
    tuple. A pipeline's ``from_pretrained`` finds a class by the dotted path of
    its module and looks for ``ModelMixin`` in the same module: a module that defines a denoiser
    must import it (from here), and must keep its path.

    Attributes:
        flops: Floating-point operations of one forward pass for one sample, see
            :mod:`kan_diffusion.denoisers.families`.

    Example:
        >>> from kan_diffusion.denoisers import build_denoiser
        >>> denoiser = build_denoiser("kan", 2, num_train_timesteps=1000, params=2300)
        >>> denoiser.save_pretrained("denoiser")
        >>> read = type(denoiser).from_pretrained("denoiser")
    """

    config_name = "config.json"

    def save_pretrained(self, save_directory: str | Path, **kwargs: object) -> None:
        """Writes the denoiser as :meth:`from_pretrained` reads it.

        Args:
            save_directory: Folder to write.
            **kwargs: Options of diffusers, but for other formats and variants.

        Raises:
            KanDiffusionError: There is a file, or what would be written is never read.
        """
        if Path(save_directory).is_file():
            raise KanDiffusionError(f"'{save_directory}' is a file; give a folder to write")
        if not kwargs.get("safe_serialization", True) or kwargs.get("variant") is not None:
            raise KanDiffusionError(
                "denoisers are read from safetensors without a variant alone; leave out "
                "safe_serialization and variant"
            )
        super().save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: object) -> Self:
        """Reads a denoiser that ``save_pretrained`` wrote, after checking it.

        Only safetensors files on this machine are read, and exactly those that were checked.

        Args:
            pretrained_model_name_or_path: Folder of the denoiser.
            **kwargs: ``subfolder`` and ``dtype`` (or ``torch_dtype``; ``"auto"`` is that of the
                file), as in diffusers, whose options of how files are read have no effect.

        Raises:
            RunFolderError: The folder or a file in it is missing, damaged or of another denoiser.
            KanDiffusionError: The dtype is no floating-point one.
        """
        root = Path(pretrained_model_name_or_path)
        if not root.is_dir():
            raise RunFolderError(
                f"'{root}' is no folder of this machine; download a denoiser before you read it"
            )
        dtype = kwargs.get("dtype") or kwargs.get("torch_dtype")
        is_real = isinstance(dtype, torch.dtype) and dtype.is_floating_point
        if dtype not in (None, "auto") and not is_real:
            raise KanDiffusionError(
                f"dtype must be a floating-point one such as torch.float16, or 'auto', not {dtype}"
            )
        folder = root / str(kwargs.get("subfolder") or "")

        def build(config: dict[str, object]) -> tuple[str, Callable[[], Self]]:
            settings = denoiser_settings(cls, config, folder / cls.config_name)
            return cls.__name__, lambda: cls(**settings)

        denoiser = SavedNetwork[Self](folder, "diffusion_pytorch_model", build).load()
        # By torch: diffusers' own warns of parts that another network would keep in float32.
        return nn.Module.to(denoiser, dtype if isinstance(dtype, torch.dtype) else denoiser.dtype)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (d,) of points, (C, H, W) of pictures."""
        raise NotImplementedError

    @property
    def observable(self) -> bool:
        """Whether coordinates may be observed."""
        return bool(getattr(self.config, "observable", False))

    @property
    def absent(self) -> dict[str, Tensor]:
        """Name of each possible condition, and the value that marks it as absent for a sample."""
        return {}

    def require_conditions(self, conditions: Mapping[str, Tensor], num_samples: int) -> None:
        """Checks conditions once before use, so that no forward pass on a GPU waits for the check.

        Args:
            conditions: Values by the names of :attr:`absent`, one per sample.
            num_samples: Number of samples.

        Raises:
            KanDiffusionError: A condition is not one of this denoiser's, or has the wrong shape or
                not one value per sample.
        """
        known = self.absent
        for name, values in conditions.items():
            if name not in known:
                raise KanDiffusionError(
                    f"this {type(self).__name__} takes {' and '.join(known) or 'no conditions'}, "
                    f"not {name}; leave it out or build one that does"
                )
            if len(values) != num_samples:
                raise KanDiffusionError(
                    f"{name} must be one a sample, {num_samples}, not {len(values)}"
                )

    def require_process(self, process: Process) -> None:
        """Checks that predictions of this denoiser are those of a process.

        Raises:
            KanDiffusionError: It was built for another number of timesteps or, if it has a process,
                as formulas do, for another one.
        """
        steps = self.config.get("num_train_timesteps") or process.num_timesteps
        if steps != process.num_timesteps:
            raise KanDiffusionError(
                f"this {type(self).__name__} was built for {steps:,} timesteps, and process "
                f"'{process.name}' has {process.num_timesteps:,}; build it with "
                f"num_train_timesteps={process.num_timesteps} or give its own process"
            )
        known = getattr(self, "process", None)
        if isinstance(known, Process) and not known.predicts_as(process):
            raise KanDiffusionError(
                f"this {type(self).__name__} is one of process '{known.name}', whose predictions "
                f"are not those of '{process.name}'; give its own process"
            )

    @classmethod
    def size_of(cls, shape: tuple[int, ...]) -> dict[str, object]:
        """Returns the arguments that say of which shape samples are.

        Raises:
            KanDiffusionError: Denoisers of this class do not take samples of that shape.
        """
        raise NotImplementedError

    @classmethod
    def without_effect(cls, settings: Mapping[str, object]) -> dict[str, str]:
        """Says which settings have no effect beside the others.

        Args:
            settings: All settings by name.

        Returns:
            What each of these settings needs, by its name; nothing unless a class says so.
        """
        return {}

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one sample."""
        raise NotImplementedError

    @property
    def num_trainable(self) -> int:
        """Number of trainable parameters, as budgets count them."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters from ``generator`` (torch's default one when None)."""
        raise NotImplementedError


class PointDenoiser(Denoiser):
    """Base of the denoisers of points.

    A subclass registers its configuration, with ``data_dim`` and, where coordinates may be
    observed, ``observable``; and it defines ``_predict``.

    Example:
        >>> from kan_diffusion.denoisers import build_denoiser
        >>> options = {"num_train_timesteps": 1000, "params": 2300, "observable": True}
        >>> denoiser, nan = build_denoiser("kan", 2, **options), float("nan")
        >>> denoiser(torch.zeros(1, 2), 10, observed=torch.tensor([[0.5, nan]])).sample.shape
        torch.Size([1, 2])
    """

    @property
    def data_dim(self) -> int:
        """Number d of coordinates of a point."""
        return int(self.config.data_dim)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (d,) for points."""
        return (self.data_dim,)

    @classmethod
    def size_of(cls, shape: tuple[int, ...]) -> dict[str, object]:
        """Returns the number of coordinates, see :meth:`.Denoiser.size_of`."""
        if len(shape) != 1:
            raise KanDiffusionError(
                "it takes points, and samples are of shape "
                f"{' x '.join(map(str, shape))}; choose a family of pictures, such as unet-kan"
            )
        return {"data_dim": shape[0]}

    def _insert(self, observed: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Inserts observed coordinates into a sample; also returns their mask."""
        if not self.observable:
            raise KanDiffusionError(
                "this denoiser was not built for observed coordinates; leave observed out or build "
                "it with observable=True"
            )
        if observed.shape != sample.shape:
            raise KanDiffusionError(
                f"observed must have the shape {tuple(sample.shape)} of the points, NaN where "
                f"nothing is observed, not {tuple(observed.shape)}"
            )
        free = observed.isnan()
        mask = 1 - free.to(sample.dtype)
        return torch.where(free, sample, observed.to(sample.dtype)), mask

    def _predict(self, points: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        """Computes the prediction.

        Args:
            points: Noised points with shape (B, d), with observed coordinates in their places.
            steps: Timesteps with shape (B,), or (1,) if all points share one.
            mask: 1 for each observed coordinate and else 0, with shape (B, d), or None where none
                may be observed.

        Returns:
            The prediction with shape (B, d).
        """
        raise NotImplementedError

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        return_dict: bool = True,
        *,
        observed: Tensor | None = None,
    ) -> DenoiserOutput | tuple[Tensor, ...]:
        """Computes the prediction for noised points.

        Args:
            sample: Noised points with shape (B, d).
            timestep: One timestep for all points, or one each with shape (B,); integers from 0 to
                T - 1, or fractions between them for samplers that use these.
            return_dict: Whether to return a :class:`DenoiserOutput` or a tuple.
            observed: Observed coordinates with shape (B, d), NaN where nothing is
                observed; or None.

        Returns:
            The prediction with shape (B, d), as ``.sample`` or in a tuple.

        Raises:
            KanDiffusionError: The points have the wrong number of coordinates, or observed
                coordinates were given to a denoiser that was built without them.
        """
        if sample.ndim != 2 or sample.shape[-1] != self.data_dim:
            raise KanDiffusionError(
                f"this denoiser takes points with shape (B, {self.data_dim}), not "
                f"{tuple(sample.shape)}"
            )
        steps = torch.as_tensor(timestep, device=sample.device).reshape(-1)
        mask = torch.zeros_like(sample) if self.observable else None
        if observed is not None:
            sample, mask = self._insert(observed, sample)
        prediction = self._predict(sample, steps, mask)
        return DenoiserOutput(sample=prediction) if return_dict else (prediction,)
