r"""Base of all denoisers: inputs, conditioning and the diffusers interface.

A denoiser is a function of the noised points, the timestep and, when there are classes, a label:

.. math:: (x_t, t, c) \mapsto \mathrm{net}([x_t, \mathrm{features}(t), \mathrm{onehot}(c)]).

It may also be told some coordinates as they are. These come in blocks, each told or not as a whole;
told coordinates take the place of the noised ones, and m says which blocks they are:

.. math:: (x_t, t, c, o) \mapsto \mathrm{net}([m \odot o + (1 - m) \odot x_t,
    \mathrm{features}(t), \mathrm{onehot}(c), m]).

What it predicts (noise, velocity or clean points) is the process's affair, not the network's. The
one-hot block is all zero where no label is given, which is the unconditional model of
classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598). The points may come with Fourier
features of their coordinates (:mod:`kan_diffusion.denoisers.features`); some families take the
timestep in another way (:mod:`kan_diffusion.denoisers.stacks`,
:mod:`kan_diffusion.denoisers.rbf_2015`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import ClassVar, Self

import torch
from diffusers import ConfigMixin, ModelMixin  # see the note in Denoiser
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from kan_diffusion.denoisers.features import PointFeatures, TimeEncoding, TimeFeatures
from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.kan.grids import Average, MovingGrids
from kan_diffusion.weights import require_sound

__all__ = ["UNLABELLED", "Denoiser", "DenoiserOutput", "ModelMixin", "SavedGrids"]

UNLABELLED = -1
"""The class label that stands for none."""


@dataclass
class DenoiserOutput(BaseOutput):
    """Output of a denoiser.

    Attributes:
        sample: The prediction, with the shape (B, d) of the noised points.
    """

    sample: Tensor


class SavedGrids(MovingGrids):
    """The methods of a denoiser whose grids can be changed, and are saved as they are.

    Attributes:
        grid_settings: Settings of its configuration that are a number of intervals.
    """

    grid_settings: ClassVar[tuple[str, ...]] = ("grid_size",)

    def refine(
        self,
        num_intervals: int,
        *inputs: object,
        optimizer: torch.optim.Optimizer | None = None,
        averages: Iterable[Average] = (),
    ) -> float:
        """Gives every grid another number of intervals: :func:`kan_diffusion.kan.refine`.

        The configuration follows, so that the denoiser is saved and loaded as it is.
        """
        change = super().refine(num_intervals, *inputs, optimizer=optimizer, averages=averages)
        sizes = dict.fromkeys(self.grid_settings, num_intervals)
        self.register_to_config(**sizes)  # type: ignore[operator]
        return change


class Denoiser(ModelMixin, ConfigMixin):
    """Base of the denoisers; a subclass sets ``network`` and registers its configuration.

    A pipeline's ``from_pretrained`` finds a component's class by the dotted path of its module and
    then looks for the name ``ModelMixin`` in that same module: a module that defines a denoiser
    must import it (from here), and must keep its path.

    Attributes:
        network: Maps (B, num_inputs) to (B, d).
        point_features: Fourier features of the points, or None.
        blocks: Widths of the blocks of coordinates that it may be told; empty for none.
        flops: Floating-point operations of one forward pass for one point, as computed here.
        flops_per_edge: The same where every edge evaluates its functions for itself; what either
            counts: :mod:`kan_diffusion.denoisers.flops`.
    """

    config_name = "config.json"
    network: nn.Module
    point_features: nn.Module | None
    _block_starts: Tensor

    def _setup_points(
        self,
        data_dim: int,
        num_classes: int,
        num_input_frequencies: int = 0,
        blocks: Sequence[int] = (),
    ) -> int:
        """Prepares the features of points, labels and mask and returns how many there are."""
        if data_dim < 1 or num_classes < 0:
            raise KanDiffusionError(
                "a denoiser needs data_dim of at least 1 and num_classes of at least 0, not "
                f"{data_dim} and {num_classes}"
            )
        if blocks and (min(blocks) < 1 or sum(blocks) != data_dim):
            raise KanDiffusionError(
                f"blocks must be widths of at least 1 that sum to data_dim = {data_dim}, not "
                f"{tuple(blocks)}"
            )
        self.num_classes = num_classes
        self.data_dim = data_dim
        self.blocks = tuple(blocks)
        starts = torch.tensor([0, *accumulate(blocks)][:-1] if blocks else [], dtype=torch.long)
        self.register_buffer("_block_starts", starts, persistent=False)
        self._input_flops = 0
        self.point_features = None
        num_told = num_classes + len(blocks)
        if num_input_frequencies == 0:
            return data_dim + num_told
        features = PointFeatures(data_dim, num_input_frequencies)
        self._input_flops = features.flops
        self.point_features = features
        return features.num_features + num_told

    def _setup_inputs(
        self,
        data_dim: int,
        num_train_timesteps: int,
        time_encoding: TimeEncoding,
        num_time_frequencies: int,
        num_classes: int,
        num_input_frequencies: int = 0,
        blocks: Sequence[int] = (),
    ) -> int:
        """Prepares all input features, the timestep's included, and returns how many there are."""
        num_features = self._setup_points(data_dim, num_classes, num_input_frequencies, blocks)
        self.time_features = TimeFeatures(time_encoding, num_train_timesteps, num_time_frequencies)
        return num_features + self.time_features.num_features

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: object) -> Self:
        """Reads a denoiser that ``save_pretrained`` wrote, after checking it.

        Only safetensors are read, from this machine alone.

        Args:
            pretrained_model_name_or_path: Its folder.
            **kwargs: Options of diffusers, such as ``subfolder``, ``variant`` or ``dtype``.

        Raises:
            RunFolderError: The folder or a file in it is missing, damaged or of another denoiser.
        """
        root = Path(pretrained_model_name_or_path)
        if not root.is_dir():
            raise RunFolderError(
                f"'{root}' is no folder of this machine; download a denoiser before you read it"
            )
        folder = root / str(kwargs.get("subfolder") or "")
        infix = f".{kwargs['variant']}" if kwargs.get("variant") else ""
        require_sound(cls, folder, f"diffusion_pytorch_model{infix}")
        safe = {"use_safetensors": True, "local_files_only": True}
        denoiser: Self = super().from_pretrained(root, **{**kwargs, **safe})
        for name, tensor in denoiser.state_dict().items():
            # On the meta device are those that a device map leaves on the disk until they are used.
            if not tensor.is_meta and not bool(tensor.isfinite().all()):
                raise RunFolderError(
                    f"the weights in '{folder}' are infinite or no numbers ('{name}'); train the "
                    "denoiser again"
                )
        return denoiser

    @property
    def _no_split_modules(self) -> list[str]:
        """Parts that ``device_map="auto"`` leaves on one device: all, since a denoiser is small."""
        return [type(part).__name__ for part in self.children()]

    def enable_layerwise_casting(self, *args: object, **kwargs: object) -> None:
        """Casts weights to a small dtype and back around each use, in networks of ``nn.Linear``.

        Args:
            *args: As diffusers takes them: ``storage_dtype``, ``compute_dtype`` and so on.
            **kwargs: The same by name.

        Raises:
            KanDiffusionError: Other layers have weights, which would not be cast.
        """
        for name, part in self.named_modules():
            if not isinstance(part, nn.Linear) and any(
                True for _ in part.parameters(recurse=False)
            ):
                raise KanDiffusionError(
                    f"layerwise casting casts nn.Linear alone, and '{name}' is a "
                    f"{type(part).__name__}; cast all of it, with .to(torch.bfloat16)"
                )
        super().enable_layerwise_casting(*args, **kwargs)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (d,) for points."""
        return (self.data_dim,)

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one point."""
        raise NotImplementedError

    @property
    def flops_per_edge(self) -> int:
        """``flops`` where every edge evaluates its functions for itself: alike without edges."""
        return self.flops

    @property
    def num_trainable(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters from ``generator`` (torch's default one when None)."""
        raise NotImplementedError

    def require_labels(self, class_labels: Tensor) -> None:
        """Checks labels once, ahead of use: a forward pass on a GPU should not wait for it.

        Args:
            class_labels: Labels of any shape, -1 where there is none.

        Raises:
            KanDiffusionError: Labels this denoiser was not built for.
        """
        self._require_classes()
        if class_labels.is_floating_point():
            raise KanDiffusionError(
                f"class labels must be whole numbers, not {class_labels.dtype}; convert them with "
                ".long()"
            )
        wrong = class_labels[(class_labels < UNLABELLED) | (class_labels >= self.num_classes)]
        if len(wrong):
            raise KanDiffusionError(
                f"class label {int(wrong[0])} is unknown to a denoiser of {self.num_classes} "
                f"classes; labels go from 0 to {self.num_classes - 1}, {UNLABELLED} stands for none"
            )

    def _require_classes(self) -> None:
        if self.num_classes == 0:
            raise KanDiffusionError(
                "this denoiser was built without classes; leave class_labels out or build it with "
                "num_classes"
            )

    def _label_features(self, class_labels: Tensor | None, sample: Tensor) -> Tensor:
        features = sample.new_zeros(sample.shape[0], self.num_classes)
        if class_labels is None:
            return features
        self._require_classes()
        labels = torch.as_tensor(class_labels, device=sample.device).expand(sample.shape[0])
        labelled = labels != UNLABELLED
        return features.scatter(
            1, labels.clamp(min=0).unsqueeze(-1), labelled.to(sample.dtype).unsqueeze(-1)
        )

    def _insert(self, observed: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        """The sample with told coordinates in place, and 1 for each told block, (B, blocks)."""
        if not self.blocks:
            raise KanDiffusionError(
                "this denoiser was not built to be told coordinates; leave observed out or build "
                "it with blocks"
            )
        if observed.shape != sample.shape:
            raise KanDiffusionError(
                f"observed must have the shape {tuple(sample.shape)} of the points, NaN where "
                f"nothing is told, not {tuple(observed.shape)}"
            )
        free = observed.isnan()
        told = 1 - free[:, self._block_starts].to(sample.dtype)
        return torch.where(free, sample, observed.to(sample.dtype)), told

    def _predict(self, points: Tensor, steps: Tensor, labels: Tensor | None) -> Tensor:
        """The network's answer; a family that takes the timestep in another way overrides this.

        Args:
            points: Features of the noised points with shape (B, p).
            steps: Timesteps with shape (B,), or (1,) where all points have one.
            labels: One-hot labels, then 1 for each told block and else 0, with shape
                (B, num_classes + blocks), or None without classes and blocks.

        Returns:
            The prediction with shape (B, d).
        """
        time = self.time_features(steps, points.dtype).expand(points.shape[0], -1)
        parts = [points, time] if labels is None else [points, time, labels]
        return self.network(torch.cat(parts, dim=-1))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        observed: Tensor | None = None,
        return_dict: bool = True,
    ) -> DenoiserOutput | tuple[Tensor]:
        """Predicts for noised points.

        Args:
            sample: Noised points with shape (B, d).
            timestep: One timestep for all points, or one each with shape (B,); whole numbers from
                0 to T - 1, or fractions between them for samplers that ask for such.
            class_labels: Labels with shape (B,), -1 where there is none; or None.
            observed: Coordinates that are told, with shape (B, d), whole blocks of them, NaN
                where a coordinate is not told; or None.
            return_dict: Whether to return a :class:`DenoiserOutput` or a tuple.

        Returns:
            The prediction with shape (B, d), as ``.sample`` or in a tuple.

        Raises:
            KanDiffusionError: The points have the wrong number of coordinates, or labels or told
                coordinates were given to a denoiser that was built without them.
        """
        if sample.ndim != 2 or sample.shape[-1] != self.data_dim:
            raise KanDiffusionError(
                f"this denoiser takes points with shape (B, {self.data_dim}), not "
                f"{tuple(sample.shape)}"
            )
        steps = torch.as_tensor(timestep, device=sample.device).reshape(-1)
        told = sample.new_zeros(sample.shape[0], len(self.blocks))
        if observed is not None:
            sample, told = self._insert(observed, sample)
        points = sample if self.point_features is None else self.point_features(sample)
        labels = None
        if self.num_classes or class_labels is not None:
            labels = self._label_features(class_labels, sample)
        if self.blocks:
            labels = told if labels is None else torch.cat([labels, told], dim=-1)
        prediction = self._predict(points, steps, labels)
        return DenoiserOutput(sample=prediction) if return_dict else (prediction,)
