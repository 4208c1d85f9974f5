"""Kernels of notebooks, forked from the server of the tests."""

import os
import runpy
import sys

from commands import share_server, start_leader


class Forked:
    """A kernel's process, with the methods of `subprocess.Popen` that jupyter_client calls."""

    stdin = stdout = stderr = None

    def __init__(self, command, *, env, cwd, **_):
        self._process = start_leader(_run, command, env, cwd)
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self.poll()


def _run(command, env, cwd):
    os.environ.update(env)
    os.chdir(cwd)
    _, option, module, *sys.argv[1:] = command
    assert option == "-m"
    share_server()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
