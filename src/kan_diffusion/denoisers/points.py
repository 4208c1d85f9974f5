r"""Base of the denoisers of points, with observed coordinates.

A denoiser of points is a function of the noised points and the timestep. It may also be conditioned
on the clean values o of some coordinates, the *observed* ones. These replace the noised ones, and a
mask m marks them:

.. math:: (x_t, t, o) \mapsto \mathrm{net}\big(m \odot o + (1 - m) \odot x_t,\; t,\; m\big).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kan_diffusion.denoisers.base import Denoiser, DenoiserOutput, ModelMixin
from kan_diffusion.errors import KanDiffusionError

__all__ = ["ModelMixin", "PointDenoiser"]


class PointDenoiser(Denoiser):
    """Base of the denoisers of points.

    A subclass registers its configuration, with ``data_dim`` and, where coordinates may be
    observed, ``observable``; and it defines ``_predict``.
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
