"""Families whose trials make trouble where they run, at a step of their own.

Whoever watches from outside learns of a step when it is over, and the worker may be on another
trial by then. So the trouble comes from within, in processes in whose environment `FOLDER` is the
name of a folder: there a trial of `KILLED` kills its process once, at step `CALM`, and leaves a
file that is named by its process and holds the niceness of it.

Where the environment has `PACE`, a step takes at least so many seconds. It changes no number. Where
it has `STEPPED`, the name of a file, each step adds a byte to it as it begins. Where it has
`JUDGED`, the name of a file, a trial that is judged makes it and comes to no end.
"""

import os
import signal
import time
from pathlib import Path

from kan_diffusion.denoisers import Family, NetworkDenoiser
from kan_diffusion.denoisers.base import ModelMixin  # noqa: F401  # from_pretrained looks for it here

FOLDER = "KAN_DIFFUSION_TROUBLES"
PACE = "KAN_DIFFUSION_PACE"
STEPPED = "KAN_DIFFUSION_STEPPED"
JUDGED = "KAN_DIFFUSION_JUDGED"
CALM = 60


class UndisturbedMLP(NetworkDenoiser):
    def forward(self, *arguments, **options):
        if self.training and PACE in os.environ:
            time.sleep(float(os.environ[PACE]))
        if self.training and STEPPED in os.environ:
            with open(os.environ[STEPPED], "ab") as file:
                file.write(b".")
        while not self.training and JUDGED in os.environ:
            Path(os.environ[JUDGED]).touch()
            time.sleep(0.05)
        return super().forward(*arguments, **options)


class UndisturbedKAN(UndisturbedMLP):
    pass


class KilledKAN(UndisturbedMLP):
    steps = 0

    def forward(self, *arguments, **options):
        if self.training and FOLDER in os.environ:
            self.steps += 1
            left = Path(os.environ[FOLDER])
            if self.steps == CALM and not any(left.iterdir()):
                (left / str(os.getpid())).write_text(str(os.nice(0)))
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(*arguments, **options)


_MADE = {"depth": 2, "learning_rate": 1e-2}
_KAN = {**_MADE, "kind": "kan", "settings": {"edges": True, "grid_size": 5}}
UNDISTURBED = Family("undisturbed", UndisturbedMLP, kind="mlp", title="Undisturbed", **_MADE)
UNDISTURBED_KAN = Family("undisturbed-kan", UndisturbedKAN, title="KAN", **_KAN)
KILLED = Family("killed", KilledKAN, title="Killed", **_KAN)
