"""The command line as a program of its own, with little to judge by."""

from __future__ import annotations

import sys

from command_line import call_quietly

if __name__ == "__main__":
    sys.exit(call_quietly(*sys.argv[1:]))
