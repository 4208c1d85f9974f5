"""What a stranger may send: small files that hold much, and modules that a program may import."""

import gzip
import io
import json

import pyarrow as pa
from pyarrow import parquet

from kan_diffusion.files import json_bytes, sealed_json


def text(*parts):
    """A text of parts that are repeated; each is a text and how often."""
    return lambda path: path.write_text("".join(part * times for part, times in parts))


def packed(line, times, again=1):
    """A million times so many lines, packed once or again and again."""

    def write(path):
        content = gzip.compress(line.encode() * 10**6) * times
        for _ in range(again - 1):
            content = gzip.compress(content)
        path.write_bytes(content)

    return write


def rows(columns, doublings=0, **options):
    """A Parquet file whose footer lists its rows 2**doublings times."""

    def write(path):
        file, foot = io.BytesIO(), io.BytesIO()
        parquet.write_table(pa.table(columns()), file, **options)
        if not doublings:
            path.write_bytes(file.getvalue())
            return
        content, about = file.getvalue(), parquet.read_metadata(file)
        for _ in range(doublings):
            about.append_row_groups(about)
        about.write_metadata_file(foot)
        body = content[: -8 - int.from_bytes(content[-8:-4], "little")]
        path.write_bytes(body + foot.getvalue()[4:])

    return write


def changed(**entries):
    """A JSON file in which some entries are others, and its own digest, if it has one, is right."""

    def write(path):
        content = json.loads(path.read_text()) | entries
        files, _ = content.pop("files", None), content.pop("sha256", None)
        path.write_bytes(json_bytes(content) if files is None else sealed_json(content, files))

    return write


def digests(*names):
    """A JSON file with digests of files that the run has not, before those that it has; or none."""

    def write(path):
        known = json.loads(path.read_text())["files"] if names else {}
        changed(files={**dict.fromkeys(names, "0" * 64), **known})(path)

    return write


def tensors(header, size=0):
    """A safetensors file with a header, and zeros that take no space on the disk."""

    def write(path):
        content = header if isinstance(header, str) else json.dumps(header)
        path.write_bytes(len(content).to_bytes(8, "little") + content.encode())
        with path.open("r+b") as file:
            file.truncate(8 + len(content) + size)

    return write


MODULES = ("bottleneck", "numexpr", "pandas", "yaml", "cyclopts", "difflib", "signal", "filelock")


def set_traps(folder):
    """Writes modules, settings and a program that leave a mark when they are used."""
    for name in MODULES:
        (folder / f"{name}.py").write_text("open('ran', 'a').write(__file__)\n")
    (folder / "ffmpeg").write_text("#!/bin/sh\necho ffmpeg >> ran\n")
    (folder / "ffmpeg").chmod(0o755)
    (folder / "matplotlibrc").write_text("animation.ffmpeg_path: ./ffmpeg\n")
    (folder / ".numba_config.yaml").write_text("cache_dir: ran\n")
