"""What the first call of a kernel does once, done in the server that tests fork from."""

from __future__ import annotations

import torch

from kan_diffusion.kan import KAN

KAN([1, 1])(torch.zeros(1, 1))
