"""The networks that the layer benchmark measures side by side, by name."""

from __future__ import annotations

from baselines.blocks import BLOCK_CONTENDERS, BLOCKS
from baselines.contender import Case, Contender, NetworkWorkload, Workload
from baselines.families import FAMILY_CONTENDERS
from baselines.flashkan import FLASHKAN, FLASHKAN_EAGER
from baselines.gemm import GEMM
from baselines.inkan import INKAN, INKAN_EAGER
from baselines.kernels import KERNEL_CONTENDERS, KERNELS, own_network
from baselines.mlp import MLP
from baselines.ours import OURS, OURS_COMPILED
from baselines.pykan import PYKAN
from baselines.recursion import RECURSION, RecursionKANLinear

__all__ = [
    "BLOCKS",
    "BLOCK_CONTENDERS",
    "CONTENDERS",
    "FAMILY_CONTENDERS",
    "KERNELS",
    "Case",
    "Contender",
    "NetworkWorkload",
    "RecursionKANLinear",
    "Workload",
    "default_contenders",
    "own_network",
]

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        *(OURS, OURS_COMPILED, GEMM, MLP),
        *(INKAN, INKAN_EAGER, FLASHKAN, FLASHKAN_EAGER, RECURSION, PYKAN),
        *KERNEL_CONTENDERS,
        *FAMILY_CONTENDERS,
        *BLOCK_CONTENDERS,
    )
}
"""Every contender, in the order in which tables show them."""


def default_contenders(device: str) -> list[str]:
    """Names of the contenders with B-splines measured on a device unless others are asked for.

    Compiling our own network is of interest on a GPU only, where no kernel of ours stands in.
    """
    others = {contender.name for contender in FAMILY_CONTENDERS + BLOCK_CONTENDERS}
    if device == "cpu":
        others.add(OURS_COMPILED.name)
    return [name for name in CONTENDERS if own_network(name) not in KERNELS and name not in others]
