r"""Base of all denoisers: the diffusers interface, conditions and checked loading from files.

A denoiser is a function of a noised sample of any shape, the timestep and conditions c,

.. math:: (x_t, t, c) \mapsto \mathrm{prediction}.

Every condition may be absent; without any, the denoiser is the unconditional model of
classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598). The process, not the network,
determines what is predicted: noise, velocity or clean samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from diffusers import ConfigMixin, ModelMixin  # see the note in Denoiser
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError, RunFolderError
from kan_diffusion.weights import require_sound

__all__ = ["UNLABELLED", "Denoiser", "DenoiserOutput", "ModelMixin"]

UNLABELLED = -1
"""The class label of a sample without a label."""


@dataclass
class DenoiserOutput(BaseOutput):
    """Output of a denoiser.

    Attributes:
        sample: The prediction, with the shape (B, *shape) of the noised samples.
    """

    sample: Tensor


class Denoiser(ModelMixin, ConfigMixin):
    """Base of the denoisers of samples of any shape.

    A subclass sets ``network``, registers its configuration and defines ``sample_shape``,
    ``absent`` and ``forward``. A pipeline's ``from_pretrained`` finds a class by the dotted path of
    its module and looks for ``ModelMixin`` in the same module: a module that defines a denoiser
    must import it (from here), and must keep its path.

    Attributes:
        network: The module that computes the prediction.
        num_classes: Number of class labels of pictures, 0 for a denoiser without classes.
        observable: Whether coordinates may be observed.
        flops: Floating-point operations of one forward pass for one sample, see
            :mod:`kan_diffusion.denoisers.families`.
    """

    config_name = "config.json"
    network: nn.Module
    num_classes: int = 0
    observable: bool = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: object) -> Self:
        """Reads a denoiser that ``save_pretrained`` wrote, after checking it.

        Only safetensors files on this machine are read.

        Args:
            pretrained_model_name_or_path: Folder of the denoiser.
            **kwargs: Options of diffusers, such as ``subfolder`` or ``dtype``.

        Raises:
            RunFolderError: The folder or a file in it is missing, damaged or of another denoiser.
        """
        root = Path(pretrained_model_name_or_path)
        if not root.is_dir():
            raise RunFolderError(
                f"'{root}' is no folder of this machine; download a denoiser before you read it"
            )
        folder = root / str(kwargs.get("subfolder") or "")
        require_sound(cls, folder, "diffusion_pytorch_model")
        safe = {"use_safetensors": True, "local_files_only": True}
        denoiser: Self = super().from_pretrained(root, **{**kwargs, **safe})
        for name, tensor in denoiser.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise RunFolderError(
                    f"the weights in '{folder}' are infinite or no numbers ('{name}'); train the "
                    "denoiser again"
                )
        return denoiser

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (d,) of points, (C, H, W) of pictures."""
        raise NotImplementedError

    @property
    def absent(self) -> dict[str, Tensor]:
        """Name of each possible condition, and the value that marks it as absent for a sample."""
        return {"class_labels": torch.tensor(UNLABELLED)} if self.num_classes else {}

    def require_conditions(self, conditions: Mapping[str, Tensor], num_samples: int) -> None:
        """Checks conditions once before use, so that no forward pass on a GPU waits for the check.

        Args:
            conditions: Values by the names of :attr:`absent`, one per sample; ``class_labels`` are
                integers, -1 where there is no label.
            num_samples: Number of samples.

        Raises:
            KanDiffusionError: A condition is not one of this denoiser's, has the wrong shape or not
                one value per sample, or class labels are not integers that it knows.
        """
        known = self.absent
        for name, values in conditions.items():
            if name == "class_labels":
                self._require_classes()
            if name not in known:
                raise KanDiffusionError(
                    f"this {type(self).__name__} takes {' and '.join(known) or 'no conditions'}, "
                    f"not {name}; leave it out or build one that does"
                )
            if len(values) != num_samples:
                raise KanDiffusionError(
                    f"{name} must be one a sample, {num_samples}, not {len(values)}"
                )
        labels = conditions.get("class_labels")
        if labels is None:
            return
        if labels.is_floating_point():
            raise KanDiffusionError(
                f"class labels must be whole numbers, not {labels.dtype}; convert them with .long()"
            )
        wrong = labels[(labels < UNLABELLED) | (labels >= self.num_classes)]
        if len(wrong):
            raise KanDiffusionError(
                f"class label {int(wrong[0])} is unknown to a denoiser of {self.num_classes} "
                f"classes; labels go from 0 to {self.num_classes - 1}, {UNLABELLED} stands for none"
            )

    def _require_classes(self) -> None:
        if self.num_classes == 0:
            raise KanDiffusionError(
                "this denoiser was built without classes; leave class_labels out or build it with "
                "num_classes, which denoisers of pictures take"
            )

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one sample."""
        raise NotImplementedError

    @property
    def num_trainable(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh parameters from ``generator`` (torch's default one when None)."""
        raise NotImplementedError

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        return_dict: bool = True,
    ) -> DenoiserOutput | tuple[Tensor, ...]:
        """Computes the prediction for noised samples.

        Args:
            sample: Noised samples with shape (B, *shape).
            timestep: One timestep for all samples, or one each with shape (B,); integers from 0 to
                T - 1, or fractions between them for samplers that use these.
            class_labels: Labels with shape (B,), -1 where there is none; or None.
            encoder_hidden_states: Embedded prompts with shape (B, tokens, width); or None.
            return_dict: Whether to return a :class:`DenoiserOutput` or a tuple.

        Returns:
            The prediction with shape (B, *shape), as ``.sample`` or in a tuple.

        Raises:
            KanDiffusionError: The samples have another shape, or a condition was given to a
                denoiser that was built without it.
        """
        raise NotImplementedError
