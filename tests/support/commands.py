"""Commands in processes of their own, forked from one that has imported everything.

A command may hang, eat the machine's memory or end by a signal, and the test goes on.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SECONDS = 20
"""No command may compute for longer to find out that it cannot work."""
PATIENCE = 6
"""Times as long it may take on a machine that has other things to do."""
MEMORY = 2 * 2**30

_PRELOADED = (
    "kan_diffusion.cli.app",
    "kan_diffusion.report.study",
    "kan_diffusion.report.explanation",
    "kan_diffusion.symbolic.explain",
    "kan_diffusion.study.tuning",
    "diffusers.pipelines.pipeline_utils",
    "sklearn.ensemble",
    "pyarrow.parquet",
)

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload([*_PRELOADED, __name__])


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        words: The command.
        code: Exit code; None when it was killed for its time.
        out: Standard output.
        err: Standard error.
    """

    words: tuple[str, ...]
    code: int | None
    out: str
    err: str

    def __str__(self) -> str:
        return f"{' '.join(self.words)} -> {self.code}\n{self.out[-500:]}\n{self.err[-3000:]}"

    @property
    def warnings_and_error(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.strip()]

    def require_answer(self) -> None:
        """Checks that it ended in time, and that an error is one line or a box of usage."""
        assert self.code is not None, f"not within {SECONDS} s: {self}"
        assert "Traceback" not in self.err, self
        assert self.code in (0, 1, 2), self
        if self.code == 1:
            errors = [line for line in self.warnings_and_error if line.startswith("error: ")]
            assert len(errors) == 1, self
            assert self.warnings_and_error[-1] == errors[0], self
            assert len(errors[0]) < 1000, self


def run_command(
    *words: object,
    folder: Path,
    seconds: float = SECONDS,
    largest_file: int = resource.RLIM_INFINITY,
) -> Ended:
    """Runs ``kan-diffusion`` with some words in a folder, within limits of time and memory.

    No file grows beyond ``largest_file`` bytes, as on a full disk.
    """
    said = tuple(map(str, words))
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place) / "out", Path(place) / "err"
        process = context.Process(target=_run, args=(said, folder, out, err, largest_file))
        out.touch()
        err.touch()
        process.start()
        process.join(PATIENCE * seconds)
        late = process.is_alive()
        if late:
            process.kill()
            process.join()
        code = None if late else process.exitcode
        return Ended(said, code, out.read_text(errors="replace"), err.read_text(errors="replace"))


def _run(words: tuple[str, ...], folder: Path, out: Path, err: Path, largest_file: int) -> None:
    for stream, path in ((1, out), (2, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, stream)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    os.chdir(folder)
    os.environ["COLUMNS"] = "100"
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    sys.argv = ["kan-diffusion", *words]
    from kan_diffusion.cli import app

    app.main()
