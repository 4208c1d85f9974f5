"""What a program does to files: recorded, cut short or made to fail, and what a power cut leaves.

Python announces every operation on a file before it takes place (audit events), whichever function
asked for it. Only `os.fsync` has no event, and is replaced. Files that compiled code writes are
seen when they are synced and renamed.
"""

import itertools
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_CHANGES = {"os.mkdir": -1, "os.remove": -1, "os.rmdir": -1, "os.rename": -2, "os.link": -2}
"""Events, and where the folder of their first path is among their arguments."""
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
    place = os.fsdecode(path)
    return Path(os.path.abspath(place) if folder == -1 else f"{_opened(folder)}/{place}")


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


def _tell(operation):
    for root, watch in _watches:
        inside = (operation.target or operation.path).is_relative_to(root)
        if inside and operation.path.name not in (".lock", ".holder"):
            below = [path and path.relative_to(root) for path in operation[1:3]]
            watch(operation._replace(path=below[0], target=below[1]))


_sync = os.fsync


def _fsync(handle):
    path = Path(_opened(handle))
    if _watches:
        _tell(Operation("fsync", path, content=path.read_bytes() if path.is_file() else None))
    _sync(handle)


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


def power_cuts(operations):
    """What a disk may hold, as dictionaries of paths and contents, if the power fails.

    A file that was not synced is empty. Of the names that changed in a folder since it was synced,
    none is on the disk, or one, or all but one, or all. Temporary files are left out.

    Yields:
        For each operation what programs see after it, and a list of what the disk may hold.
    """
    numbers, contents = itertools.count(), {}
    names, kept, changes = {}, {}, []
    for kind, path, target, content in operations:
        change = {}
        if kind in ("write", "open"):
            if path not in names:
                change = {path: next(numbers)}
            if change or kind == "write":
                contents[change.get(path, names.get(path))] = b""
        elif kind == "fsync" and content is not None:
            contents[names[path]] = content
        elif kind == "fsync":
            for folder, synced in changes:
                kept |= synced if folder == path else {}
            changes = [each for each in changes if each[0] != path]
        elif kind == "mkdir":
            change = {path: None}
            contents[None] = None
        elif kind in ("rename", "link"):
            if path not in names:  # compiled code has written it
                names[path] = next(numbers)
                contents[names[path]] = b""
            change = {target: names[path]} | ({path: -1} if kind == "rename" else {})
        else:
            change = {path: -1}
        names |= change
        if change := {each: number for each, number in change.items() if not is_hidden(each)}:
            changes.append(((target or path).parent, change))
        yield (
            _files(names, contents),
            [
                _files(
                    dict(itertools.chain(kept.items(), *(each.items() for each in some))), contents
                )
                for some in _choices([change for _, change in changes])
            ],
        )


def _choices(changes):
    yield []
    yield changes
    for number, change in enumerate(changes):
        yield [change]
        yield changes[:number] + changes[number + 1 :]


def _files(names, contents):
    """The files whose folders are there, too."""
    return {
        path: contents[number]
        for path, number in names.items()
        if number not in (None, -1)
        and not is_hidden(path)
        and all(names.get(folder, -1) is None for folder in path.parents if folder != Path())
    }
