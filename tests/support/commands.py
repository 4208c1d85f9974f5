"""Commands in processes of their own, forked from a server that has imported everything.

A command may hang, eat the machine's memory or end by a signal, and the test goes on.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

SECONDS = 20
"""No command may compute for longer to find out that it cannot work."""
PATIENCE = 6
"""Times as long it may take on a machine that has other things to do."""
MEMORY = 2 * 2**30

_PRELOADED = (
    "kan_diffusion.study.executors.preload",  # as in the library's own server, and on one thread
    "kan_diffusion.cli.app",
    "kan_diffusion.report.study",
    "kan_diffusion.report.explanation",
    "kan_diffusion.symbolic.explain",
    "kan_diffusion.study.tuning",
    "diffusers.pipelines.pipeline_utils",
    "sklearn.ensemble",
    "pyarrow.parquet",
    "ot",
    "kills",
    "warmed",
)

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload([*_PRELOADED, __name__])
# A study that this process runs would replace what the server imports.
forkserver.set_forkserver_preload = lambda names: None


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


class Running:
    """``kan-diffusion`` with some words in a session of its own, as a shell starts it.

    Its standard error is a pipe, which the servers and workers that it starts hold, too.

    Args:
        *words: The words.
        environment: Variables that it has beside those of this process.
        own_server: Whether the server of its workers is its own; else it is that of the tests.
    """

    def __init__(
        self,
        *words: object,
        environment: Mapping[str, str],
        own_server: bool = False,
    ) -> None:
        self._said, err = context.Pipe(duplex=False)
        variables = {**os.environ, **environment}
        said = tuple(map(str, words))
        self.process = start_leader(_run_apart, said, variables, err, own_server)
        err.close()

    def wait(self, seconds: float) -> str:
        """Waits until it has ended and all that hold its standard error; returns what that says."""
        said = b""
        while self._said.poll(seconds):
            part = os.read(self._said.fileno(), 2**16)
            if not part:
                break
            said += part
        else:
            raise AssertionError(f"still running; it said: {said.decode()}")
        self.process.join(seconds)
        return said.decode(errors="replace")


def start_leader(call: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """Calls a function in a process of its own, and waits until that leads its own session."""
    leads, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_lead, args=(theirs, call, arguments))
    process.start()
    theirs.close()
    leads.poll(None)
    return process


def _lead(leads: Connection, call: Callable[..., object], arguments: tuple[object, ...]) -> None:
    os.setsid()
    leads.close()
    hear_interrupts()
    call(*arguments)


def hear_interrupts() -> None:
    """Lets this process be interrupted, even if its server is a job of a shell or of a driver."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _run_apart(
    words: tuple[str, ...],
    environment: dict[str, str],
    err: Connection,
    own_server: bool,
) -> None:
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(err.fileno(), 2)
    err.close()
    _call(words, own_server=own_server)


def run_command(
    *words: object,
    folder: Path,
    seconds: float = SECONDS,
    largest_file: int = resource.RLIM_INFINITY,
    pictures: bool = True,
) -> Ended:
    """Runs ``kan-diffusion`` with some words in a folder, within limits of time and memory.

    No file grows beyond ``largest_file`` bytes, as on a full disk. Without ``pictures`` those of
    its pages are empty.
    """
    said = tuple(map(str, words))
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place) / "out", Path(place) / "err"
        given = said, folder, out, err, largest_file, pictures
        process = context.Process(target=_run, args=given)
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


def _run(
    words: tuple[str, ...],
    folder: Path,
    out: Path,
    err: Path,
    largest_file: int,
    pictures: bool,
) -> None:
    for stream, path in ((1, out), (2, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, stream)
    os.chdir(folder)
    os.environ["COLUMNS"] = "100"
    if not pictures:
        from html_page import leave_pictures_empty  # its own imports are the server's

        leave_pictures_empty(pytest.MonkeyPatch())  # in this process alone
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    _call(words)


def _call(words: tuple[str, ...], *, own_server: bool = False) -> None:
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.argv = ["kan-diffusion", *words]
    if own_server:
        forkserver.set_forkserver_preload = forkserver._forkserver.set_forkserver_preload
    else:
        share_server()
    from kan_diffusion.cli import app

    app.main()


def share_server() -> None:
    """Has workers forked from the server that this process is from, with limits as its own."""
    fork = ForkServerProcess._Popen

    def fork_limited(process: ForkServerProcess) -> object:
        forked = fork(process)
        for limit in (resource.RLIMIT_DATA, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
            resource.prlimit(forked.pid, limit, resource.getrlimit(limit))
        return forked

    forkserver._forkserver.ensure_running = lambda: None
    ForkServerProcess._Popen = staticmethod(fork_limited)
