"""Data files, study files and options that are wrong: one line that says so, or a right result.

Each case is a command, in a folder with a file that is broken in some way, or with an option out
of range. With `make test-hard` all of them run, and a few in `make test`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from command_line import call_quietly
from commands import Ended, run_command
from kan_diffusion.study.folder import load_trial

NUM_MUTATED, NUM_OPTIONS = 60, 30

QUICK = "--family mlp --params 400 --steps 20 --batch-size 16 --device cpu --out run"
Content = bytes | str | np.ndarray | Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A command that is wrong.

    Attributes:
        name: What is wrong.
        words: The command; ``RUN`` stands for a finished run.
        says: Words of the error; where there are none, a right result will do.
        files: Files by name.
        always: Whether it is a case of `make test`.
    """

    name: str
    words: str
    says: str = ""
    files: Mapping[str, Content] = field(default_factory=dict)
    always: bool = False


def _bytes(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _rows(num: int = 30, columns: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, columns))


def _csv(rows: np.ndarray | None = None, names: Sequence[str] = ("a", "b")) -> str:
    values = _rows() if rows is None else rows
    return pd.DataFrame(values, columns=list(names)).to_csv(index=False)


def _npy_head(shape: str, kind: str = "<f8", body: bytes = b"\0" * 800) -> bytes:
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode("latin1") + body


def _parquet(columns: Mapping[str, object]) -> bytes:
    return _bytes(lambda file: parquet.write_table(pa.table(dict(columns)), file))


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _noise(num: int, seed: int = 0) -> bytes:
    return Random(seed).randbytes(num)


_LINES = _csv().splitlines()
_HEAD, _BODY = _LINES[0], _LINES[1:]


def _with_line(line: str, place: int = 3) -> str:
    return "\n".join([_HEAD, *_BODY[:place], line, *_BODY[place:], ""])


def _with_cell(cell: str) -> str:
    return _with_line(f"1.0,{cell}")


_STUDY = """name: mine
title: Mine
seeds: 1
data: [{toy: moons, num_points: 100}]
training: {steps: 5, batch_size: 16}
evaluation: {num_noised: 100, num_samples: 20, num_likelihood: 0, num_real_pairs: 1, moments: []}
models: [{family: mlp, hidden: [8]}]
"""


def _study(old: str, new: str) -> str:
    assert old in _STUDY
    return _STUDY.replace(old, new)


# --- data files: the file, its content, what is said ------------------------------------------

_TABLES: tuple[tuple[str, str, Content, str], ...] = (
    ("empty csv", "a.csv", "", "is empty"),
    ("blank csv", "a.csv", " \n\n \n", "is empty"),
    ("only a byte order mark", "a.csv", "\ufeff", ""),
    ("header only", "a.csv", "a,b\n", "no rows"),
    ("one row", "a.csv", "a,b\n1,2\n", "single row"),
    ("few rows", "a.csv", "a,b\n1,2\n3,4\n", "at least 10"),
    ("only commas", "a.csv", ",,,\n" * 20, "nothing to learn"),
    ("only quotes", "a.csv", '"' * 1001, "line 1"),
    ("binary csv", "a.csv", _noise(5000), "'a.csv' is not"),
    ("zero bytes", "a.csv", b"\0" * 5000, "zero bytes"),
    ("utf-16", "a.csv", _csv().encode("utf-16"), "not UTF-8"),
    ("latin-1", "a.csv", _csv(names=("é", "b")).encode("latin-1"), "not UTF-8 text (line 1)"),
    ("a quote never closed", "a.csv", _with_line('1.0,"2.0'), "opened in line 5"),
    ("a quote in the header never closed", "a.csv", '"a,b\n' + "1,2\n" * 20, "opened in line 1"),
    ("a quote in the last line", "a.csv", _csv() + '1,"2', "opened in line 32"),
    ("a quote before a long file", "a.csv", 'a,b\n"1,2\n' + "1,2\n" * 100_000, "opened in line 2"),
    ("a quote after closed ones", "a.csv", _with_line('"1","2\n"\n"1","2'), "opened in line 7"),
    ("text after a quote", "a.csv", _with_line('"1"x,2'), "line 5"),
    ("a row too short", "a.csv", _with_line("1.0"), "line 5"),
    ("a row too long", "a.csv", _with_line("1,2,3"), "line 5"),
    ("words", "a.csv", _with_cell("red"), "'red'"),
    ("a long word", "a.csv", _with_cell("x" * 100_000), "line 5"),
    ("a value of a million digits", "a.csv", _with_cell("1" * 1_000_000), "line 5"),
    ("thousands", "a.csv", _with_cell("1_000"), "'1_000'"),
    ("hexadecimal", "a.csv", _with_cell("0x10"), "'0x10'"),
    ("complex", "a.csv", _with_cell("1+2j"), "'1+2j'"),
    ("a formula", "a.csv", _with_cell("=1+1"), "'=1+1'"),
    ("a date", "a.csv", _with_cell("2024-01-01"), "'2024-01-01'"),
    ("a boolean", "a.csv", _with_cell("True"), "'True'"),
    ("arabic digits", "a.csv", _with_cell("١٢"), ""),
    ("full-width digits", "a.csv", _with_cell("１２"), ""),
    ("a minus sign", "a.csv", _with_cell("−1"), "'−1'"),
    ("zero width space", "a.csv", _with_cell("1\u200b"), "line 5"),
    ("right to left", "a.csv", _with_cell("\u202e1"), "line 5"),
    ("line separator", "a.csv", _with_cell("\u2028"), ""),
    ("emoji", "a.csv", _with_cell("😀"), "line 5"),
    ("escape codes", "a.csv", _with_cell("\x1b[2J\x1b[31mred"), "line 5"),
    ("escape codes in names", "a.csv", _csv(names=("\x1b[2J", "b")).replace(_BODY[2], "x,y"), ""),
    *((f"missing as {text!r}", "a.csv", _with_cell(text), "")
      for text in ("", "NaN", "nan", "NA", "N/A", "null", "None", "<NA>", "-nan", "#N/A", "+NaN")),
    *((f"infinite as {text!r}", "a.csv", _with_cell(text), "infinite")
      for text in ("inf", "-Infinity", "1e400", "-1e99999", "9" * 400)),
    ("not a number with a payload", "a.csv", _with_cell("nan(123)"), "line 5"),
    ("too large", "a.csv", _with_cell("1e301"), "beyond 1e+300"),
    ("very large", "a.csv", _csv(_rows() * 1e299), ""),
    ("very small", "a.csv", _csv(_rows() * 1e-299), ""),
    ("too small", "a.csv", _csv(_rows() * 1e-310), "column 'a' has a spread"),
    ("an outlier", "a.csv", _with_cell("1e250"), ""),
    ("constant", "a.csv", "a,b\n" + "1,5\n2,5\n" * 9, ""),
    ("nearly constant", "a.csv", "a,b\n" + "1,0\n2,0\n" * 9 + "3,1\n", ""),
    ("all the same", "a.csv", "1,1\n" * 50, "constant"),
    ("names twice", "a.csv", _csv(names=("a", "a")), "same name: 'a'"),
    ("names that differ by a space", "a.csv", _csv(names=("a", " a")), "same name: 'a'"),
    ("a name of a thousand letters", "a.csv", _csv(names=("x" * 1000, "b")), ""),
    ("names of mathematics", "a.csv", _csv(names=("$x$", r"\frac")), ""),
    ("names of half a formula", "a.csv", _csv(names=(r"$\frac", "$")), ""),
    ("names with line breaks", "a.csv", _csv(names=("a\nb", "c\r\nd")), ""),
    ("names in other scripts", "a.csv", _csv(names=("质量", "😀")), ""),
    ("names of zero width", "a.csv", _csv(names=("\u200b", "\u200c")), ""),
    ("a million columns", "a.csv", ",".join(map(str, range(10**6))) + "\n", "1,000,000 columns"),
    ("a million names", "a.csv", ",".join(f"c{i}" for i in range(10**6)) + "\n", "columns"),
    ("a line of 50 MB", "a.csv", "1" * 50_000_000, "line 1"),
    ("a line of 50 MB with semicolons", "a.csv", "a;b\n" + "1" * 50_000_000 + ";2\n", "line 2"),
    ("50 MB of spaces", "a.csv", " " * 50_000_000, "is empty"),
    ("ambiguous commas", "a.csv", "a;b\n" + "1,234;2,345\n" * 20, "decimals or thousands"),
    ("pipes", "a.csv", _csv().replace(",", "|"), ""),
    ("html", "a.csv", "<!doctype html>\n<html><body>404</body></html>\n" * 10, ""),
    ("carriage returns", "a.csv", _csv().replace("\n", "\r"), ""),
    ("mixed line ends", "a.csv", _csv().replace("\n", "\r\n", 7), ""),
    ("a zip", "a.csv", b"PK\x03\x04" + _noise(2000, 1), "'a.csv' is not"),
    ("a named pipe", "a.csv", _fifo, "no file"),
    ("a link to zeros", "a.csv", _link("/dev/zero"), "no file"),
    ("a link to nowhere", "a.csv", _link("b.csv"), "there is no file"),
    ("a link to itself", "a.csv", _link("a.csv"), "'a.csv'"),
    ("a folder", "a.csv", lambda path: path.mkdir(), "is a folder"),
    ("another ending", "a.xlsx", _noise(100), "ending '.xlsx'"),
    ("empty parquet", "a.parquet", "", "is empty"),
    ("binary parquet", "a.parquet", _noise(3000), "not a readable Parquet file"),
    ("half a parquet", "a.parquet", _parquet({"a": _rows()[:, 0]})[:200], "not a readable Parquet"),
    ("parquet with a garbled end", "a.parquet",
     _parquet({"a": _rows()[:, 0]})[:-20] + _noise(16) + b"PAR1", "not a readable Parquet"),
    ("csv as parquet", "a.parquet", _csv(), "not a readable Parquet file"),
    ("lists", "a.parquet", _parquet({"a": [[1.0, 2.0]] * 20}), "column 'a'"),
    ("structures", "a.parquet", _parquet({"a": [{"x": 1.0}] * 20}), "column 'a'"),
    ("maps", "a.parquet",
     _parquet({"a": pa.array([[("x", 1)]] * 20, pa.map_(pa.string(), pa.int64()))}), "column 'a'"),
    ("words in parquet", "a.parquet", _parquet({"a": ["x"] * 20}), "nothing to learn"),
    ("bytes", "a.parquet", _parquet({"a": [b"\0\xff"] * 20}), "column 'a'"),
    ("booleans", "a.parquet", _parquet({"a": [True, False] * 10}), ""),
    ("dates", "a.parquet", _parquet({"a": pd.date_range("2024", periods=20)}), ""),
    ("times of day", "a.parquet",
     _parquet({"a": pa.array(range(20), pa.time64("us"))}), "column 'a'"),
    ("nothing but nulls", "a.parquet", _parquet({"a": pa.nulls(20)}), "nothing to learn"),
    ("no columns", "a.parquet", _parquet({}), "no"),
    ("no rows", "a.parquet", _parquet({"a": pa.array([], pa.float64())}), "no rows"),
    ("large decimals", "a.parquet",
     _parquet({"a": pa.array([10**30 + i for i in range(20)], pa.decimal128(38, 0))}), ""),
    ("large integers", "a.parquet", _parquet({"a": [2**62 + i for i in range(20)]}), ""),
    ("many rows of one value", "a.parquet", _parquet({"a": np.zeros(10**6)}), "constant"),
    ("empty npy", "a.npy", "", "is empty"),
    ("binary npy", "a.npy", _noise(3000), "not a NumPy array file"),
    ("npy of a huge number of rows", "a.npy", _npy_head("(1000000000000, 2)"), "broken NumPy file"),
    ("npy of a huge number of columns", "a.npy", _npy_head("(2, 1000000000000)"), "'a.npy'"),
    ("npy of no rows and many columns", "a.npy", _npy_head("(0, 1000000000)"), "columns"),
    ("npy of many rows and no columns", "a.npy", _npy_head("(1000000000, 0)"), "no columns"),
    ("npy of overflowing shape", "a.npy", _npy_head("(4611686018427387904, 4)"), "'a.npy'"),
    ("npy of a negative shape", "a.npy", _npy_head("(-1, 2)"), "'a.npy'"),
    ("npy of a shape of words", "a.npy", _npy_head("('a', 2)"), "broken NumPy file"),
    ("npy of a deep header", "a.npy", _npy_head("(" * 900 + ")" * 900), "broken NumPy file"),
    ("npy whose header is code", "a.npy", _npy_head("__import__('os').abort()"), "'a.npy'"),
    ("npy that is cut", "a.npy", _bytes(lambda f: np.save(f, _rows()))[:300], "broken NumPy file"),
    ("npy of a scalar", "a.npy", np.array(3.0), "shape ()"),
    ("npy of three dimensions", "a.npy", np.zeros((3, 3, 3)), "shape (3, 3, 3)"),
    ("npy of complex numbers", "a.npy", _rows() + 1j, "complex128"),
    ("npy of words", "a.npy", np.array(["x"] * 20), "not real numbers"),
    ("npy of booleans", "a.npy", _rows() > 0, "bool"),
    ("npy of records", "a.npy", np.zeros(20, [("a", "f8")]), "not real numbers"),
    ("npy of objects", "a.npy",
     _bytes(lambda f: np.save(f, np.array([None, {}] * 10), allow_pickle=True)), "can run code"),
    ("npy of dates", "a.npy", np.arange("2024-01", "2026-01", dtype="datetime64[M]"), "datetime64"),
    ("npy of not a number", "a.npy", np.where(_rows() > 1, np.nan, _rows()), ""),
    ("npy of long doubles", "a.npy", _rows().astype(np.longdouble) * np.longdouble("1e400"), "inf"),
    ("npy of Fortran order", "a.npy", np.asfortranarray(_rows()), ""),
    ("npy of other byte order", "a.npy", _rows().astype(">f8"), ""),
    ("npz as npy", "a.npy", _bytes(lambda f: np.savez(f, a=_rows())), "not a NumPy array file"),
)  # fmt: skip

# --- options: the command, what is said -------------------------------------------------------

_OPTIONS: tuple[tuple[str, str], ...] = (
    (f"train moons --steps {10**12}", "10000000"),
    (f"train moons --depth {10**9}", "100"),
    (f"train moons --params {10**12}", "100000000"),
    (f"train moons --batch-size {10**12}", "10000000"),
    ("train moons --depth 100 --params 50", "too small"),
    ("train moons --depth 0", "--depth"),
    ("train moons --steps 0", "--steps"),
    ("train moons --steps -1", "--steps"),
    ("train moons --steps 1e3", "valid integer"),
    (f"train moons --steps {'9' * 5000}", "steps"),
    ("train moons --lr nan", "learning_rate"),
    ("train moons --lr inf", "learning_rate"),
    ("train moons --lr 0", "learning_rate"),
    ("train moons --lr x", "--lr"),
    ("train moons --sparsify nan", "sparsify"),
    ("train moons --sparsify -1", "--sparsify"),
    ("train moons --sparsify 1 --family mlp", "KAN layers"),
    ("train iris --holdout 0", "holdout"),
    ("train iris --holdout 1", "holdout"),
    ("train iris --holdout nan", "holdout"),
    ("train moons --device meta", "device 'meta'"),
    ("train moons --device nonsense", "device 'nonsense'"),
    ("train moons --device cuda:99", "device 'cuda:99'"),
    ("train moons --device ''", "device ''"),
    ("train moons --process nonsense", "unknown process"),
    ("train moons --family nonsense", "unknown family"),
    ("train moons --family no.such:THING", "no.such"),
    ("train moons --family os:system", "family"),
    ("train moons --family a:b:c", "family"),
    ("train moons --nonsense 3", "--nonsense"),
    ("train", "argument"),
    ("train ''", "folder"),
    ("train nonsense", "unknown data set"),
    ("train missing.csv", "there is no file"),
    ("train .", "folder"),
    ("train /", "folder"),
    ("train /dev/zero", "/dev/zero"),
    ("train /dev/stdin", "/dev/stdin"),
    ("train /proc/self/mem", "/proc/self/mem"),
    (f"train {'x' * 5000}.csv", "File name too long"),
    (f"train {'x/' * 3000}a.csv", "File name too long"),
    ("train a\0b.csv", "a"),
    (f"train good.csv --out {'x' * 5000} --steps 1", "File name too long"),
    ("train good.csv --out good.csv --steps 1", "good.csv"),
    ("train good.csv --out good.csv/run --steps 1", "good.csv"),
    ("train good.csv --out /proc/run --steps 1", "/proc"),
    ("train good.csv --out /dev/null --steps 1", "/dev/null"),
    (f"train {'n' * 120}.csv --steps 1", "at most 100 characters"),
    (f"compare moons --seeds {10**9}", "10000"),
    (f"compare moons --workers {10**9}", "1024"),
    (f"compare moons --match flops --budget {10**15}", "at most 1,000,000,000,000"),
    (f"compare moons --budget {10**12}", "at most 100,000,000"),
    ("compare moons --budget nan", "budget"),
    ("compare moons --budget inf", "budget"),
    ("compare moons --budget 0", "budget"),
    ("compare moons --budget 1.5", "whole number"),
    ("compare moons --budget x", "neither a number nor a model"),
    ("compare moons --budget mlp:x", "neither a number nor a model"),
    ("compare moons --budget mlp:0", "mlp"),
    ("compare moons --budget mlp:-5", "mlp"),
    (f"compare moons --budget mlp:{10**9}-{10**9}", "mlp"),
    (f"compare moons --budget mlp:{'-'.join(['8'] * 1000)}", "at most 100"),
    ("compare moons --match time --budget 1e30", "at most 10,000,000"),
    ("compare moons --match nonsense --budget 3", "--match"),
    ("tune moons --optimizers adam,sgd", "unknown optimizer 'sgd'"),
    ("train moons --optimizer sopa", "did you mean 'soap'"),
    ("compare moons --families ''", "family"),
    ("compare moons --families kan,,mlp", "family"),
    ("compare moons --process cosine,cosine", "rename one"),
    ("compare moons --executor nonsense", "executor"),
    (f"compare notebook --epochs {10**9}", "10000000"),
    (f"compare notebook --epochs {10**7}", "at most 10,000,000"),
    ("compare study.txt", "study.txt"),
    ("compare missing.yaml", "cannot be read"),
    ("compare moons --tuned missing.json", "missing.json"),
    ("compare moons --tuned good.csv", "not a file of tuned settings"),
    ("compare moons --tuned /dev/zero", "/dev/zero"),
    ("compare moons --tuned pipe", "pipe"),
    ("compare moons --tuned brackets.json", "brackets.json"),
    ("compare /dev/stdin.yaml", "/dev/stdin.yaml"),
    (f"tune moons --tries {10**9}", "10000"),
    ("tune moons --tries 0", "--tries"),
    ("tune moons --storage nonsense://x --tries 1 --steps 2", "storage|nonsense"),
    ("sample RUN --scheduler ddim --steps 2000", "at most 1,000"),
    (f"sample RUN --num {10**12}", "200000000"),
    ("sample RUN --num 200000000", "at most 200,000,000"),
    ("sample RUN --num 0", "--num"),
    ("sample RUN --num x", "valid integer"),
    (f"sample RUN --steps {10**12}", "at most 1,000"),
    ("sample RUN --steps 0", "--steps"),
    ("sample RUN --scheduler nonsense", "scheduler"),
    ("sample RUN --scheduler flow-heun", "does not fit"),
    ("sample RUN --device meta", "device 'meta'"),
    ("sample RUN --out x.txt", "ending"),
    ("sample RUN --out good.csv", "exists"),
    ("sample RUN --out good.csv/x.csv", "good.csv"),
    ("sample RUN --out folder.csv --overwrite", "folder.csv"),
    ("sample RUN --out /proc/x.csv", "/proc/x.csv"),
    (f"sample RUN --out {'x' * 300}.csv", "File name too long"),
    (f"sample RUN --seed {10**30} --num 5", ""),
    ("sample RUN --seed -1 --num 5", ""),
    ("sample RUN --import nonsense", "nonsense"),
    ("sample RUN --import ''", "module ''"),
    ("sample missing", "no finished run"),
    (f"sample {'x' * 5000}", "File name too long"),
    ("sample good.csv", "good.csv"),
    ("evaluate RUN --data nonsense", "nonsense"),
    ("evaluate RUN --data swiss-roll-16", ""),
    ("evaluate RUN --data good.csv", ""),
    ("evaluate RUN --data far.csv", "far.csv': column"),
    ("evaluate RUN --data three.csv", "3 columns"),
    ("evaluate RUN --data missing.csv", "there is no file"),
    ("explain RUN --levels x", "list of timesteps"),
    ("explain RUN --levels 5000", "5000"),
    ("explain RUN --levels -1", "-1"),
    ("explain RUN --prune nan", "prune"),
    ("explain RUN --min-r2 nan", "r2"),
    ("explain RUN --tolerance nan", "tolerance"),
    ("explain RUN --library nonsense", "nonsense"),
    (f"explain RUN --num {10**12}", "10000000"),
    ("explain RUN --seconds nan", "seconds"),
    ("report", "argument"),
    ("report missing", "missing"),
    ("report RUN RUN", "RUN|twice|run"),
    ("report RUN --out good.csv", "good.csv"),
    ("report RUN --out /proc/x", "/proc/x"),
    ("nonsense", "nonsense"),
)

_STUDIES: tuple[tuple[str, Content, str], ...] = (
    ("empty", "", "study.yaml"),
    ("a list", "[]", "study.yaml"),
    ("a word", "x", "study.yaml"),
    ("binary", _noise(1000), "study.yaml"),
    ("a tab", "name: a\n\tb: c", "is not YAML"),
    ("brackets", "[" * 100_000, "study.yaml"),
    ("a named pipe", _fifo, "no file"),
    ("a link to zeros", _link("/dev/zero"), "no file"),
    ("an alias to itself", "&a [*a]", "study.yaml"),
    ("python", "!!python/object/apply:os.system [id]", "is not YAML"),
    ("name above", _study("name: mine", "name: ../../x"), "no '/'"),
    ("name with a separator", _study("name: mine", "name: a/b"), "no '/'"),
    ("name with a zero", _study("name: mine", 'name: "a\\0b"'), "no '/'"),
    ("name with a line break", _study("name: mine", 'name: "a\\nb"'), "not seen"),
    ("name too long", _study("name: mine", f"name: {'x' * 101}"), "at most 100 characters"),
    ("no name", _study("name: mine", "name: ''"), "name"),
    ("a number as name", _study("name: mine", "name: 3"), "name"),
    ("model above", _study("family: mlp,", "family: mlp, name: ../x,"), "no '/'"),
    ("data above", _study("{toy: moons, num_points: 100}", "{path: ../x/..}"), "'"),
    ("many steps", _study("steps: 5", f"steps: {10**12}"), "10000000"),
    ("large batches", _study("batch_size: 16", f"batch_size: {10**12}"), "10000000"),
    ("many points", _study("num_points: 100", f"num_points: {10**12}"), "10000000"),
    ("many seeds", _study("seeds: 1", f"seeds: {10**12}"), "10000"),
    ("many noised", _study("num_noised: 100", f"num_noised: {10**12}"), "10000000"),
    ("many samples", _study("num_samples: 20", f"num_samples: {10**12}"), "10000000"),
    ("a moment at infinity", _study("moments: []", "moments: [.inf]"), "moments"),
    ("a moment that is no number", _study("moments: []", "moments: [.nan]"), "moments"),
    ("200,000 layers", _study("[8]", f"[{'8,' * 100_000}]"), "100,000 settings"),
    ("200,000 words", _STUDY + "question: [" + "x, " * 200_000 + "]", "at most 250 kB"),
    ("200 layers", _study("[8]", f"[{', '.join(['8'] * 200)}]"), "at most 100"),
    ("a wide layer", _study("[8]", f"[{10**12}]"), "100000000"),
    ("two wide layers", _study("[8]", f"[{10**7}, {10**7}]"), "at most 1,000,000 units"),
    ("a layer of nothing", _study("[8]", "[0]"), "hidden"),
    ("a fine grid",
     _study("family: mlp,", f"family: kan, settings: {{grid_size: {10**9}}},"), "100"),
    ("a grid of words",
     _study("family: mlp,", "family: kan, settings: {grid_size: x},"), "settings of family"),
    ("a setting unknown",
     _study("family: mlp,", "family: mlp, settings: {nonsense: 1},"), "nonsense"),
    ("process above", _study("seeds: 1", "process: {name: ../x}"), "no '/'"),
    ("a timestep too many",
     _study("seeds: 1", f"process: {{name: x, num_timesteps: {10**9}}}"), "100000"),
    ("noise of nothing", _study("num_points: 100", "num_points: 100, noise: 1e-300"), "noise"),
    ("endless noise", _study("num_points: 100", "num_points: 100, noise: .inf"), "noise"),
    ("division by next to nothing",
     _study("num_points: 100", "num_points: 9, divide_by: 1e-300"), "divide_by"),
    ("mathematics", _study("family: mlp,", "family: mlp, name: '$\\frac',"), ""),
)  # fmt: skip

_ALWAYS = {
    "a quote never closed", "a named pipe", "a million names", "npy of no rows and many columns",
    "lists", "names of half a formula", "a line of 50 MB",
    "sample RUN --scheduler ddim --steps 2000", "train moons --device meta",
    f"train moons --steps {10**12}", "train /dev/stdin", "name above", "200 layers",
}  # fmt: skip


def _cases() -> list[Case]:
    cases = [
        Case(name, f"train {file} {QUICK}", says, {file: content}, name in _ALWAYS)
        for name, file, content, says in _TABLES
    ]
    cases += [Case(words, words, says, always=words in _ALWAYS) for words, says in _OPTIONS]
    cases += [
        Case(f"study: {name}", "compare study.yaml --workers 1 --device cpu --out out", says,
             {"study.yaml": content}, name in _ALWAYS)
        for name, content, says in _STUDIES
    ]  # fmt: skip
    return cases


def _mutated(random: Random) -> bytes:
    """A table in which a few bytes, lines or cells are others."""
    content = bytearray(_csv().encode())
    for _ in range(random.randrange(1, 5)):
        place = random.randrange(len(content))
        match random.randrange(6):
            case 0:
                content[place] = random.randrange(256)
            case 1:
                del content[place : place + random.randrange(1, 200)]
            case 2:
                content[place:place] = random.randbytes(random.randrange(1, 20))
            case 3:
                content[place:place] = random.choice((b'"', b"\n", b",", b";", b"\r", b"\0", b"e9"))
            case 4:
                content[place:place] = content[: random.randrange(1, len(content))]
            case _:
                content = (
                    content.replace(*random.choice(((b",", b";"), (b".", b","), (b"\n", b""))))
                    or content
                )
        content = content or bytearray(b"a")
    return bytes(content)


def _random_options(random: Random) -> str:
    """A command with values that no one would give."""
    values = (
        *("0", "-1", "1e9", "nan", "inf", "-inf", "''", "x", "3.7", "$x$", "..", "/dev/null"),
        *(str(10**9), str(10**20), "a,b", "1" * 400, "None", "[]", "\u202e", "=", "--"),
    )
    options = {
        "train good.csv": ("family", "params", "depth", "process", "steps", "batch-size", "lr",
                           "holdout", "seed", "sparsify", "device"),
        "sample RUN": ("num", "steps", "scheduler", "seed", "device", "out"),
        "evaluate RUN": ("data",),
        "compare good.csv": ("match", "budget", "families", "seeds", "params", "process", "steps",
                             "epochs", "device", "workers", "executor"),
    }  # fmt: skip
    command = random.choice(list(options))
    chosen = random.sample(options[command], min(2, len(options[command])))
    # The first value is one that cannot be, so that nothing is trained for long.
    given = [f"--{option} {random.choice(values)}" for option in chosen]
    return " ".join([command, *given])


def _write(path: Path, content: Content) -> None:
    if callable(content):
        content(path)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    elif isinstance(content, str):
        path.write_text(content, "utf-8", newline="")
    else:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    words = "train moons --family full-kan --params 400 --steps 30 --batch-size 64 --out"
    assert call_quietly(*words.split(), folder / "run") == 0
    return folder / "run"


def _ended(words: str, folder: Path, finished: Path) -> Ended:
    """Runs a command in a folder with a few good files."""
    given = [word.replace("RUN", str(finished)) for word in words.split()]
    return run_command(*("" if word == "''" else word for word in given), folder=folder)


def _prepare(folder: Path) -> None:
    _write(folder / "good.csv", _csv())
    _write(folder / f"{'n' * 120}.csv", _csv())
    _write(folder / "far.csv", _csv(_rows() * 1e30, ("x", "y")))
    _write(folder / "three.csv", _csv(_rows(30, 3), ("a", "b", "c")))
    _write(folder / "brackets.json", "[" * 100_000)
    _fifo(folder / "pipe")
    (folder / "folder.csv").mkdir()


def _require_right(ended: Ended, folder: Path) -> None:
    """Checks what a command that succeeded has made."""
    match ended.words[0]:
        case "train" if (folder / "run").exists():
            result = load_trial(folder / "run")
            assert result is not None, ended
            assert np.isfinite(result.row["heldout_loss"]), ended
        case "sample":
            assert "rows:" in ended.out, ended
        case "evaluate":
            assert "held-out loss" in ended.out, ended


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name[:60], marks=() if case.always else pytest.mark.hard)
        for case in _cases()
    ],
)
def test_wrong_input_is_answered_in_one_line_or_rightly(
    case: Case, finished: Path, tmp_path: Path
) -> None:
    _prepare(tmp_path)
    for name, content in case.files.items():
        _write(tmp_path / name, content)
    ended = _ended(case.words, tmp_path, finished)
    print(ended)
    ended.require_answer()
    if case.says:
        assert ended.code in (1, 2), ended
        said = " ".join((ended.out + ended.err).replace("│", " ").split())
        assert any(part in said for part in case.says.split("|")), ended
    elif ended.code == 0:
        _require_right(ended, tmp_path)


@pytest.mark.parametrize(
    "ending", [".npy", ".csv", pytest.param(".parquet", marks=pytest.mark.hard)]
)
def test_a_full_disk_is_one_line_and_keeps_what_was_there(
    ending: str, finished: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"samples{ending}"
    path.write_text("before")
    words = ("sample", finished, "--num", 20_000, "--overwrite", "--out", path)
    ended = run_command(*words, folder=tmp_path, largest_file=4096)
    ended.require_answer()
    assert f"cannot write '{path}': " in ended.err, ended
    assert "free some space" in ended.err, ended
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.hard
@pytest.mark.parametrize("number", range(NUM_MUTATED))
def test_a_changed_table_is_answered_in_one_line_or_rightly(
    number: int, finished: Path, tmp_path: Path
) -> None:
    _write(tmp_path / "a.csv", _mutated(Random(number)))
    ended = _ended(f"train a.csv {QUICK}", tmp_path, finished)
    print(ended)
    ended.require_answer()
    if ended.code == 0:
        _require_right(ended, tmp_path)


@pytest.mark.hard
@pytest.mark.parametrize("number", range(NUM_OPTIONS))
def test_options_at_random_are_answered_in_one_line_or_rightly(
    number: int, finished: Path, tmp_path: Path
) -> None:
    _prepare(tmp_path)
    ended = _ended(_random_options(Random(number)), tmp_path, finished)
    print(ended)
    ended.require_answer()
    if ended.code == 0:
        _require_right(ended, tmp_path)
