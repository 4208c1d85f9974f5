"""What a program does to files: recorded, cut short or made to fail, and what a power cut leaves.

Python announces every operation on a file before it takes place (audit events), whichever function
asked for it. Only `os.fsync` has no event, and is replaced: nothing here outlives a real power cut.
Files that compiled code writes are seen when they are synced and renamed.
"""

import os
import sys
from contextlib import contextmanager
from functools import reduce
from operator import or_
from pathlib import Path
from typing import NamedTuple

_CHANGES = {"os.mkdir": -1, "os.remove": -1, "os.rmdir": -1, "os.rename": -2, "os.link": -2}
"""Events, and where the folder of their first path is among their arguments."""
_FOLDER = ()
_watches = []  # a hook cannot be removed


class Operation(NamedTuple):
    """An operation on a file or folder; its content if it is a file that is being synced."""

    kind: str
    path: Path
    target: Path | None = None
    content: bytes | None = None

    @property
    def shown(self):
        """Whether it changes what has a name of its own, and no temporary file."""
        return self.kind != "fsync" and not is_hidden(self.target or self.path)


def is_hidden(path):
    return any(part.startswith(".") for part in path.parts)


def _path(path, folder=-1):
    name = os.fsdecode(path)
    return Path(os.path.abspath(name) if folder == -1 else f"{_opened(folder)}/{name}")


def _opened(handle):
    return os.readlink(f"/proc/self/fd/{handle}")


def _hear(event, given):
    if not _watches:
        return
    if event == "open" and isinstance(given[0], str | bytes) and given[2] & os.O_ACCMODE:
        _tell(Operation("write" if given[2] & os.O_TRUNC else "open", _path(given[0])))
    elif event in _CHANGES:
        target = _path(given[1], given[3]) if len(given) == 4 else None
        _tell(Operation(event.removeprefix("os."), _path(given[0], given[_CHANGES[event]]), target))


def _fsync(handle):
    if _watches:
        path = Path(_opened(handle))
        _tell(Operation("fsync", path, content=path.read_bytes() if path.is_file() else None))


def _tell(operation):
    for root, watch in _watches:
        inside = (operation.target or operation.path).is_relative_to(root)
        if inside and operation.path.name not in (".lock", ".holder"):
            below = [path and path.relative_to(root) for path in operation[1:3]]
            watch(operation._replace(path=below[0], target=below[1]))


sys.addaudithook(_hear)
os.fsync = _fsync


@contextmanager
def watched(root, watch):
    """Tells every operation below a folder before it takes place; an error prevents it."""
    _watches.append((Path(root).resolve(), watch))
    try:
        yield
    finally:
        _watches.pop()


@contextmanager
def disturbed(root, numbers, disturb, counts=lambda operation: operation.shown):
    """Does something before operations below a folder, numbered from 0 among those that count.

    Gives the list of these.
    """
    seen = []

    def watch(operation):
        if counts(operation):
            seen.append(operation)
            if len(seen) - 1 in numbers:
                disturb(operation)

    with watched(root, watch):
        yield seen


def power_cuts(operations):
    """What a disk may hold, as dictionaries of paths and contents, if the power fails.

    A file that was not synced is empty. Of the names that changed in a folder since it was synced,
    none is on the disk, or one, or all but one, or all.

    Yields:
        For each operation what programs see after it, and a list of what the disk may hold.
    """
    names, kept, changes = {}, {}, []  # of files, lists of their content; None of what is gone
    for kind, path, target, content in operations:
        file, change = names.get(path) or [b""], {}
        if kind == "fsync" and content is None:
            kept = reduce(or_, (change for folder, change in changes if folder == path), kept)
            changes = [each for each in changes if each[0] != path]
        elif kind == "mkdir":
            change = {path: _FOLDER}
        elif kind in ("open", "write", "fsync"):
            change = {path: file} if names.get(path) is None else {}
            if kind != "open":
                file[0] = content or b""
        else:
            change = {} if kind == "link" else {path: None}
            change |= {target: file} if target else {}
        names |= change
        if change:
            changes.append(((target or path).parent, change))
        some = [[], [change for _, change in changes]]
        for number, change in enumerate(some[1]):
            some += [[change], some[1][:number] + some[1][number + 1 :]]
        yield _files(names), [_files(reduce(or_, each, kept)) for each in some]


def _files(names):
    """The contents of the files whose folders are there, too."""
    return {
        path: file[0]
        for path, file in names.items()
        if file and all(names.get(folder) is _FOLDER for folder in path.parents[:-1])
    }
