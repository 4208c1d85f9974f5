r"""Base of the denoisers of points: their inputs, with observed coordinates.

A denoiser of points is a function of the noised points and the timestep. It may also be conditioned
on the clean values o of some coordinates, the *observed* ones. These replace the noised ones, and a
mask m marks them:

.. math:: (x_t, t, o) \mapsto \mathrm{net}\big(m \odot o + (1 - m) \odot x_t,\;
    \mathrm{features}(t),\; m\big).

The points may come with Fourier features of their coordinates
(:mod:`kan_diffusion.denoisers.features`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kan_diffusion.denoisers.base import Denoiser, DenoiserOutput, ModelMixin
from kan_diffusion.denoisers.features import TimeEncoding, TimeFeatures, waves
from kan_diffusion.errors import KanDiffusionError

__all__ = ["ModelMixin", "PointDenoiser"]


class PointDenoiser(Denoiser):
    """Base of the denoisers of points.

    A subclass registers its configuration, calls :meth:`_set_inputs`, and sets ``network``, which
    maps (B, num_inputs) to (B, d), or defines ``_predict``.

    Attributes:
        data_dim: Number d of coordinates of a point.
        num_input_frequencies: Number M of frequencies of the points' Fourier features.
        time_features: Features of the timestep.
    """

    data_dim: int
    num_input_frequencies: int = 0
    time_features: TimeFeatures

    def _set_inputs(
        self, num_input_frequencies: int = 0, time_encoding: TimeEncoding | None = None
    ) -> None:
        """Sets features and what may be observed as the configuration says, where it says anything.

        Args:
            num_input_frequencies: Number of frequencies of the points' Fourier features.
            time_encoding: Encoding of the timestep; that of the configuration when None.

        Raises:
            KanDiffusionError: A number is not usable.
        """
        config = self.config
        data_dim = config.data_dim
        if data_dim < 1:
            raise KanDiffusionError(f"a denoiser needs data_dim of at least 1, not {data_dim}")
        self.data_dim, self.observable = data_dim, config.get("observable", False)
        if num_input_frequencies < 0:
            raise KanDiffusionError(
                f"num_input_frequencies must be at least 0, not {num_input_frequencies}"
            )
        self.num_input_frequencies = num_input_frequencies
        if encoding := time_encoding or config.get("time_encoding"):
            self.time_features = TimeFeatures(
                encoding, config.num_train_timesteps, config.num_time_frequencies
            )

    @classmethod
    def size_of(cls, shape: tuple[int, ...]) -> dict[str, object]:
        """Returns the number of coordinates, see :meth:`.Denoiser.size_of`."""
        if len(shape) != 1:
            raise KanDiffusionError(
                "it takes points, and samples are of shape "
                f"{' x '.join(map(str, shape))}; choose a family of pictures, such as unet-kan"
            )
        return {"data_dim": shape[0]}

    @property
    def num_features(self) -> int:
        """Number of features of a point."""
        return self.data_dim * (1 + 2 * self.num_input_frequencies)

    @property
    def num_inputs(self) -> int:
        """Number of features of points, timestep and mask together."""
        of_mask = self.data_dim if self.observable else 0
        return self.num_features + self.time_features.num_features + of_mask

    @property
    def _input_flops(self) -> int:
        """Of the features of a point: one for each angle, four each for its cosine and sine."""
        return 9 * self.data_dim * self.num_input_frequencies

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (d,) for points."""
        return (self.data_dim,)

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

    def _features(self, sample: Tensor) -> Tensor:
        """Features (B, p) of noised points (B, d)."""
        if not self.num_input_frequencies:
            return sample
        return torch.cat([sample, waves(sample, self.num_input_frequencies, 0.25).to(sample)], -1)

    def _predict(self, points: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        """Computes the prediction, here ``network`` of all features side by side.

        Args:
            points: Features of the noised points with shape (B, num_features).
            steps: Timesteps with shape (B,), or (1,) if all points share one.
            mask: 1 for each observed coordinate and else 0, with shape (B, d), or None where none
                may be observed.

        Returns:
            The prediction with shape (B, d).
        """
        time = self.time_features(steps, points.dtype).expand(points.shape[0], -1)
        parts = [points, time] if mask is None else [points, time, mask]
        prediction: Tensor = self.network(torch.cat(parts, dim=-1))
        return prediction

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
        prediction = self._predict(self._features(sample), steps, mask)
        return DenoiserOutput(sample=prediction) if return_dict else (prediction,)
