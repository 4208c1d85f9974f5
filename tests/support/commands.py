"""Commands in processes of their own, forked from a server that has imported everything.

A command may hang, eat the machine's memory or end by a signal, and the test goes on.
"""

import os
import resource
import signal
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, util
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

from command_line import Outcome

SECONDS = 10
"""No command may compute for longer to find out that it cannot work."""
PATIENCE = 12
"""Times as long it may take on a machine that has other things to do."""
MEMORY = 2**30
"""Bytes that no command may have in memory at once, with the half of it that imports take."""

PRELOADED = ("kan_diffusion.study.executors.worker", "warmed", "kills", __name__)
"""Modules that the server imports; the first is that of the library's own, and on one thread."""


class Forked(ForkServerProcess):
    served = False

    def start(self):
        if not Forked.served:
            forkserver._forkserver._stop()  # that of a study's workers, which has imported less
            context.set_forkserver_preload(list(PRELOADED))
            Forked.served = True
            # The server is not told where modules are, and passes over those that it misses.
            with pytest.MonkeyPatch.context() as changed:
                changed.setenv("PYTHONPATH", os.pathsep.join(sys.path))
                forkserver.ensure_running()
        super().start()


class Forking(ForkServerContext):
    Process = Forked


context = Forking()


@dataclass(frozen=True)
class Ended(Outcome):
    """How a command ended; its code is None when it was killed for its time, its peak in bytes."""

    words: tuple[str, ...]
    peak: int

    def __str__(self):
        return f"{' '.join(self.words)} -> {self.code}\n{self.out[-500:]}\n{self.err[-3000:]}"

    def require_answer(self):
        """Checks that it ended in time, and that an error is one line or a box of usage."""
        assert self.code is not None, f"not within {SECONDS} s: {self}"
        assert "Traceback" not in self.err, self
        assert self.code in (0, 1, 2), self
        assert 0 < self.peak <= MEMORY, f"{self.peak / 1e6:.0f} MB: {self}"
        if self.code == 1:
            lines = [line for line in self.err.splitlines() if line.strip()]
            assert [line for line in lines if line.startswith("error: ")] == lines[-1:], self
            assert len(lines[-1]) < 1000, self


class Running:
    """``kan-diffusion`` with some words in a folder and a session of its own, as a shell starts it.

    Its standard error is a pipe, which the servers and workers that it starts hold, too. ``out`` is
    its standard output.
    """

    def __init__(self, *words, folder, environment, out=os.devnull):
        self._said, err = context.Pipe(duplex=False)
        variables = {**os.environ, **environment}
        said = tuple(map(str, words))
        self.process = start_leader(_run_apart, said, folder, variables, err, out)
        err.close()

    def wait(self, seconds):
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


def start_leader(call, *arguments):
    """Calls a function in a process of its own, and waits until that leads its own session."""
    leads, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_lead, args=(theirs, call, arguments))
    process.start()
    theirs.close()
    leads.poll(None)
    return process


def _lead(leads, call, arguments):
    os.setsid()
    leads.close()
    hear_interrupts()
    call(*arguments)


def hear_interrupts():
    """Lets this process be interrupted, even if its server is a job of a shell or of a driver."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def _run_apart(words, folder, environment, err, out):
    os.chdir(folder)
    os.environ.update(environment)
    os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(err.fileno(), 2)
    err.close()
    _fork_server()
    _call(words)


def run_command(*words, folder):
    """Runs ``kan-diffusion`` with some words in a folder, within limits of time and memory."""
    said = tuple(map(str, words))
    with tempfile.TemporaryDirectory() as place:
        out, err, peak = (Path(place, name) for name in ("out", "err", "peak"))
        for path in (out, err, peak):
            path.touch()
        process = context.Process(target=_run, args=(said, folder, out, err, peak))
        process.start()
        process.join(PATIENCE * SECONDS)
        code = process.exitcode  # None where it is still running
        process.kill()
        process.join()
        told = (path.read_text(errors="replace") for path in (out, err))
        return Ended(code, *told, said, int(peak.read_text() or 0))


def _run(words, folder, out, err, peak):
    assert "warmed" in sys.modules  # or each command waits for imports
    peak = os.open(peak, os.O_WRONLY)
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY), stream)
    os.chdir(folder)
    os.environ["COLUMNS"] = "100"
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    # Beyond the bound, so that a command that does not fit into it is seen and not mended by this.
    resource.setrlimit(resource.RLIMIT_DATA, (used + 3 * MEMORY, used + 3 * MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    share_server()
    try:
        _call(words)
    finally:  # in kilobytes
        os.write(peak, str(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss).encode())


def _call(words):
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.argv = ["kan-diffusion", *words]
    from kan_diffusion.cli import app

    app.main()


def share_server():
    """Has workers forked from the server that this process is from, with limits as its own."""
    fork = ForkServerProcess._Popen

    def fork_limited(process):
        forked = fork(process)
        for limit in (resource.RLIMIT_DATA, resource.RLIMIT_CPU):
            resource.prlimit(forked.pid, limit, resource.getrlimit(limit))
        return forked

    forkserver._forkserver.ensure_running = lambda: None
    ForkServerProcess._Popen = staticmethod(fork_limited)


def _fork_server():
    """Has the server of this process's workers forked from it, which need not import anything."""
    start = util.spawnv_passfds

    def fork(path, words, handles):
        if "forkserver" not in words[-1]:
            return start(path, words, handles)
        if (pid := os.fork()) == 0:
            try:
                for handle in map(int, os.listdir("/proc/self/fd")):
                    if handle not in (0, 1, 2, *handles):
                        with suppress(OSError):  # that of the list itself
                            os.close(handle)
                exec(words[-1], {})
            finally:
                os._exit(0)
        return pid

    util.spawnv_passfds = fork
