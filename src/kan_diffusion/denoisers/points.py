r"""Base of the denoisers of points: their inputs, with labels and told coordinates.

A denoiser of points is a function of the noised points, the timestep and, with classes, a label:

.. math:: (x_t, t, c) \mapsto \mathrm{net}([x_t, \mathrm{features}(t), \mathrm{onehot}(c)]).

A denoiser may also be told some coordinates o as they are. Coordinates come in blocks, each told as
a whole or not at all. Told coordinates replace the noised ones, and the mask m marks their blocks:

.. math:: (x_t, t, c, o) \mapsto \mathrm{net}([m \odot o + (1 - m) \odot x_t,
    \mathrm{features}(t), \mathrm{onehot}(c), m]).

The one-hot block is all zero where no label is given. The points may come with Fourier
features of their coordinates (:mod:`kan_diffusion.denoisers.features`); some families take the
timestep in another way (:mod:`kan_diffusion.denoisers.stacks`,
:mod:`kan_diffusion.denoisers.rbf_2015`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from kan_diffusion.denoisers.base import UNLABELLED, Denoiser, DenoiserOutput, ModelMixin
from kan_diffusion.denoisers.features import PointFeatures, TimeEncoding, TimeFeatures
from kan_diffusion.errors import KanDiffusionError

__all__ = ["ModelMixin", "PointDenoiser"]


class PointDenoiser(Denoiser):
    """Base of the denoisers of points; a subclass sets ``network`` and registers its configuration.

    Attributes:
        network: Maps (B, num_inputs) to (B, d).
        point_features: Fourier features of the points, or None.
        data_dim: Number d of coordinates of a point.
    """

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

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (d,) for points."""
        return (self.data_dim,)

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
        """Inserts told coordinates into a sample; also returns the mask of blocks (B, blocks)."""
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

    def _features(self, sample: Tensor) -> Tensor:
        """Features (B, p) of noised points (B, d)."""
        return sample if self.point_features is None else self.point_features(sample)

    def _predict(self, points: Tensor, steps: Tensor, labels: Tensor | None) -> Tensor:
        """Computes the prediction; a family with another use of the timestep overrides this.

        Args:
            points: Features of the noised points with shape (B, p).
            steps: Timesteps with shape (B,), or (1,) if all points share one.
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
        encoder_hidden_states: Tensor | None = None,
        return_dict: bool = True,
        *,
        observed: Tensor | None = None,
    ) -> DenoiserOutput | tuple[Tensor, ...]:
        """Computes the prediction for noised points.

        Args:
            sample: Noised points with shape (B, d).
            timestep: One timestep for all points, or one each with shape (B,); integers from 0 to
                T - 1, or fractions between them for samplers that use these.
            class_labels: Labels with shape (B,), -1 where there is none; or None.
            encoder_hidden_states: Must be None: denoisers of points take no prompts.
            return_dict: Whether to return a :class:`DenoiserOutput` or a tuple.
            observed: Told coordinates with shape (B, d), whole blocks of them, NaN where a
                coordinate is not told; or None.

        Returns:
            The prediction with shape (B, d), as ``.sample`` or in a tuple.

        Raises:
            KanDiffusionError: The points have the wrong number of coordinates, or labels, prompts
                or told coordinates were given to a denoiser that was built without them.
        """
        if sample.ndim != 2 or sample.shape[-1] != self.data_dim:
            raise KanDiffusionError(
                f"this denoiser takes points with shape (B, {self.data_dim}), not "
                f"{tuple(sample.shape)}"
            )
        if encoder_hidden_states is not None:
            raise KanDiffusionError(
                "a denoiser of points takes no prompts; leave encoder_hidden_states out"
            )
        steps = torch.as_tensor(timestep, device=sample.device).reshape(-1)
        told = sample.new_zeros(sample.shape[0], len(self.blocks))
        if observed is not None:
            sample, told = self._insert(observed, sample)
        points = self._features(sample)
        labels = None
        if self.num_classes or class_labels is not None:
            labels = self._label_features(class_labels, sample)
        if self.blocks:
            labels = told if labels is None else torch.cat([labels, told], dim=-1)
        prediction = self._predict(points, steps, labels)
        return DenoiserOutput(sample=prediction) if return_dict else (prediction,)
