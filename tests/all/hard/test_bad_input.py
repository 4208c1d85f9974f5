"""Data files, study files and options that are wrong: one line that says so, or a right result.

Here are those that could hang, fill the memory, run code or break a figure; what is wrong with a
single cell or setting stands in the tests of what reads it.
"""

import json
from random import Random

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from commands import run_command
from hostile import changed, digests, packed, rows, tensors, text
from kan_diffusion.study.folder import load_trial
from make import reseal
from runs import copied

QUICK = "--family mlp --params 400 --steps 20 --batch-size 16 --device cpu --quick --out run"
ROWS = np.random.default_rng(0).normal(size=(30, 2))
WIDE = np.random.default_rng(1).normal(size=(30, 6))


def _csv(rows=ROWS, names=("a", "b")):
    return pd.DataFrame(rows, columns=list(names)).to_csv(index=False)


def _npy_head(shape):
    """A NumPy file that says it has a shape."""
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    size = len(head).to_bytes(2, "little")
    return b"\x93NUMPY\x01\x00" + size + head.encode() + b"\0" * 800


NUMBERED = pa.DictionaryArray.from_arrays(np.zeros(10**5, np.int32), ["x" * 10**6])


# --- data files: the file, its content (or what writes it), what is said ---

LONG_LINE = "a line of more than 10,000,000 characters"
NO_ARRAY = "not a readable NumPy array"
UNPACKED, LISTS = "100 MB are read", "of lists or the like"

TABLES = {
    "a quote before a long file": ("a.csv", text(('a,b\n"', 1), ("1,2\n", 10**5)), "in line 2"),
    "a value of a million digits": ("a.csv", _csv() + "1.0," + "1" * 10**6, "row 31"),
    "escape codes": ("a.csv", _csv() + "1.0,\x1b[2J\x1b[31mred", "row 31"),
    "very large": ("a.csv", _csv(ROWS * 1e299), ""),
    "names of half a formula, with line breaks and in other scripts":
        ("a.csv", _csv(WIDE, (r"$\frac", "$", "a\nb", "\x1b[2J\r\n", "质量", "\u200b😀")), ""),
    "a million names": ("a.csv", text(("c,", 10**6)), "columns"),
    "a line of 50 MB": ("a.csv", text(("a;b\n", 1), ("1", 5 * 10**7), (";2\n", 1)), LONG_LINE),
    "50 MB of spaces": ("a.csv", text((" ", 5 * 10**7)), "more than 10,000,000 characters"),
    "a link to itself": ("a.csv", lambda path: path.symlink_to(path), "'a.csv'"),
    "a million rows of one value": ("a.csv", text(("1,2\n", 10**6)), "constant"),
    "100,000 digits and a letter": ("a.csv", "1" * 10**5 + "x,b\n", "100,001 characters in row 0"),
    "25 MB of quotation marks": ("a.csv", text(('"', 25 * 10**6)), LONG_LINE),
    "cells of two quotation marks": ("a.csv", text(("a,b\n", 1), ('"",', 10**7)), LONG_LINE),
    "a line of 1 GB": ("a.csv", tensors("", 10**9 - 99), "it holds zero bytes"),
    "2 GB packed": ("a.csv.gz", packed("1,2\n", 500), "bytes; give a Parquet"),
    "packed twice": ("a.csv.gz", packed("1,2\n", 1, again=2), "is not UTF-8"),
    "25 million ones": ("a.parquet", rows(lambda: {"a": np.ones(25 * 10**6)}), UNPACKED),
    "billions of ones": ("a.parquet", rows(lambda: {"a": np.ones(2**20)}, 12), "000,000 values"),
    "one long text": ("a.parquet", rows(lambda: {"a": NUMBERED}, store_schema=False), UNPACKED),
    "a text of 200 MB": ("a.parquet",
        rows(lambda: {"a": ["x" * (2 * 10**8)]}, compression="zstd", use_dictionary=False),
        UNPACKED),
    "200,000 columns": ("a.parquet", rows(lambda: {str(n): [1] for n in range(200_000)}), "footer"),
    "long lists": ("a.parquet", rows(lambda: {"a": [[1.0] * 10**6] * 3}), LISTS),
    "no rows of many columns": ("a.npy", _npy_head("(0, 1000000000000)"), "columns"),
    "a huge number of rows": ("a.npy", _npy_head("(1000000000000, 2)"), NO_ARRAY),
    "an overflowing shape": ("a.npy", _npy_head("(4611686018427387904, 4)"), "'a.npy'"),
    "a deep header": ("a.npy", _npy_head("(" * 900 + ")" * 900), NO_ARRAY),
    "a header that is code": ("a.npy", _npy_head("__import__('os').abort()"), "'a.npy'"),
}  # fmt: skip

# --- options: RUN is a finished run, KAN one that can be read ---

OPTIONS = {
    f"train moons --steps {10**12}": "10000000",
    f"train moons --params {10**12}": "100000000",
    "train moons --device meta": "device 'meta'",
    "train moons --family os:system": "family",
    "train /dev/stdin": "/dev/stdin",
    "train /proc/self/mem": "/proc/self/mem",
    "train a\0b.csv": "a",
    "train good.csv --out good.csv/run --steps 1": "good.csv",
    "train good.csv --out /proc/run --steps 1": "/proc",
    f"compare moons --budget mlp:{'-'.join(['8'] * 1000)}": "at most 100",
    "compare moons --tuned brackets.json": "brackets.json",
    "sample RUN --num 200000000": "at most 200,000,000",
    f"sample RUN --steps {10**12}": "from 1 to 1,000",
    f"sample RUN --seed {10**30} --num 5": "",
    "sample RUN --out folder.csv --overwrite": "folder.csv",
    f"explain KAN --num {10**12}": "10000000",
}

# --- study files: a part of one that is right replaced ---

STUDY = """name: mine
title: Mine
seeds: 1
data: [{toy: moons, num_points: 100}]
training: {steps: 5, batch_size: 16}
evaluation: {num_noised: 100, num_drawn: 50, effort: quick, moments: []}
models: [{family: mlp, hidden: [8]}]
"""


def _study(old, new):
    assert old in STUDY
    return STUDY.replace(old, new)


def _nested(first, others):
    """Settings that hold the ones before them nine times, in place of an @."""
    parts = (others.replace("@", f"*b{number}," * 9) for number in range(30))
    return f"0: &b0 {first}\n" + "".join(f"{n}: &b{n} {part}\n" for n, part in enumerate(parts, 1))


OTHERS = ("rings", "circles", "s-curve", "pinwheel", "checkerboard")
STUDIES = {
    "brackets": ("[" * 100_000, "study.yaml"),
    "an alias to itself": ("&a [*a]", "study.yaml"),
    "python": ("!!python/object/apply:os.system [id]", "is not YAML"),
    "many points": (_study("num_points: 100", f"num_points: {10**12}"), "10000000"),
    "200,000 layers": (_study("[8]", f"[{'8,' * 100_000}]"), "at most 100 items"),
    "200,000 words": (STUDY + f"question: [{'x, ' * 200_000}]", "at most 250 kB"),
    "two wide layers": (_study("[8]", f"[{10**7}, {10**7}]"), "at most 1,000,000 units"),
    "a fine grid": (_study("mlp,", f"kan, settings: {{grid_size: {10**9}}},"), "from 1 to 10,000"),
    "half a formula": (_study("mlp,", "mlp, name: '$\\frac',"), ""),
    "100 MB": (text(("a", 10**8)), "at most 250 kB"),
    "no truth": (_study("mine", "!!bool maybe"), "is not YAML: 'maybe'"),
    "no number": (_study("mine", "!!int ''"), "is not YAML"),
    "no date": (_study("mine", "!!timestamp x"), "is not YAML"),
    "a number of 10,000 digits": (_study("seeds: 1", f"seeds: 0x{'f' * 10**4}"), "20 digits"),
    "a number in sixties": (_study("seeds: 1", f"seeds: 1{':1' * 10**5}"), ""),
    "merge keys": (_nested("{b: 1}", "{<<: [@]}"), "an alias"),
    "laughter": (_nested("[x]", "[@]"), "an alias"),
    "60,000 trials": (_study("seeds: 1\ndata: [",
        "seeds: 10000\ndata: [" + "".join(f"{{toy: {toy}}}, " for toy in OTHERS)),
        "at most 50,000 trials"),
    "a long family": (_study("mlp", "m" * 10**5), "unknown family"),
}  # fmt: skip

# --- files of a run: the file, what is written into it, what is said ---

POINTS = {"dtype": "F32", "shape": [125 * 10**6], "data_offsets": [0, 5 * 10**8]}
SAMPLES = {"dtype": "F32", "shape": [6 * 10**7], "data_offsets": [0, 24 * 10**7]}
OBJECTS = text(('{"a": [{}', 1), (",{}", 33 * 10**6), ("]}", 1))
FEWER = text(('{"a": [{}', 1), (",{}", 6 * 10**6), ("]}", 1))
COLUMNS = {"columns": [{"categories": [[]] * 10**4}] * 400}
STEPS = ("step", "loss", "learning_rate", "heldout_loss")
WEIGHTS = "RUN/denoiser/diffusion_pytorch_model.safetensors"

LISTS_IN_A_ROW = {"date": "", "row": {str(number): [] for number in range(50_000)}}
EMPTY_LEVELS = {"date": "", "row": {}, "versions": {}, "levels": [{}] * 30_000}
FOLDERS = {
    "99 MB of a trial": ("RUN/trial.json", OBJECTS, "1,000 kB"),
    "brackets of a trial": ("RUN/trial.json", '{"config": ' + "[" * 500_000, "recursion"),
    "a row of lists": ("RUN/trial.json", changed(trained=LISTS_IN_A_ROW), "string"),
    "levels": ("RUN/trial.json", changed(judged=EMPTY_LEVELS), "a level has not the keys"),
    "99 MB of an index": ("RUN/model_index.json", OBJECTS, "20,000 kB"),
    "6 million objects": ("RUN/model_index.json", FEWER, "is of class None"),
    "wrong categories": ("RUN/model_index.json", changed(codec=COLUMNS), "model_index.json"),
    "99 MB of settings": ("RUN/denoiser/config.json", OBJECTS, "20,000 kB"),
    "a digest of a folder above": ("RUN/trial.json", digests("../x"), "is no file of the folder"),
    "many digests": ("RUN/trial.json", digests(*map(str, range(9000))), "cannot be read"),
    "a long name": ("RUN/trial.json", digests("a" * 10**5), "name too long"),
    "no digests": ("RUN/trial.json", digests(), "has no digest of 'denoiser/"),
    "a header of 99 MB": (WEIGHTS, tensors(f'{{"a":"{"x" * 99_000_000}"}}'), "header"),
    "large weights":
        (WEIGHTS, tensors({"a": POINTS}, 5 * 10**8), "is (125000000,) there and unknown"),
    "billions of steps": ("STUDY/trials/*/curves.parquet",
        rows(lambda: dict.fromkeys(STEPS, np.ones(2**20)), 12), "40,000,000 values"),
    "billions of results": ("STUDY/results.parquet",
        rows(lambda: dict.fromkeys(("trial", "error"), ["a"] * 2**20), 12), "500,000 values"),
    "results of long texts": ("STUDY/results.parquet",
        rows(lambda: {"error": NUMBERED}, store_schema=False), UNPACKED),
    "results of lists": ("STUDY/results.parquet", rows(lambda: {"error": [["a"]]}), LISTS),
    "large samples": ("STUDY/trials/*/samples-*.safetensors",
        tensors({"points": SAMPLES}, 24 * 10**7), ""),
    "versions": ("STUDY/environment.json", OBJECTS, "1,000 kB"),
    "99 MB tuned": ("tuned.json", OBJECTS, "1,000 kB"),
    "wrong tuned": ("tuned.json", json.dumps({str(n): 1 for n in range(70_000)}),
        "not a file of tuned settings"),
    "deep tuned": ("tuned.json",
        json.dumps({"mlp": {"family": "mlp", "depth": 10**12, "settings": {}}}), "depth"),
    "a checkpoint's header": ("run/checkpoint.safetensors",
        tensors(f'{{"__metadata__":{{"identity":"{"x" * 99_000_000}"}}}}'), "is not a checkpoint"),
}  # fmt: skip

READERS = {
    "RUN/": "sample RUN --num 5",
    "STUDY/": "report STUDY",
    "tuned.json": "compare moons --tuned tuned.json --device cpu",
    "study.yaml": "compare study.yaml --workers 1 --device cpu --out out",
    "run/": f"train good.csv {QUICK}",
    "": f"train FILE {QUICK}",
}
"""Parts of the names of files, and the commands that read these."""

FILES = {
    **TABLES,
    **{f"study: {name}": ("study.yaml", *case) for name, case in STUDIES.items()},
    **FOLDERS,
}
CASES = {
    **{words: (words, says, {}) for words, says in OPTIONS.items()},
    **{
        name: (next(READERS[part] for part in READERS if part in file).replace("FILE", file),
               says, {file: content})
        for name, (file, content, says) in FILES.items()
    },
}  # fmt: skip


def _write(path, content):
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


RUNS = {"RUN": "points", "KAN": "readable", "STUDY": "study"}


@pytest.fixture
def answered(runs, tmp_path):
    """Runs a command in a folder with files, which answers; if it succeeds, with what is right."""
    _write(tmp_path / "good.csv", _csv())
    _write(tmp_path / "brackets.json", "[" * 100_000)
    (tmp_path / "folder.csv").mkdir()
    known = {"''": ""}

    def call(words, **files):
        for name, run in RUNS.items():
            if name in words.split(" "):
                known[name] = copied(runs(run), tmp_path / name)
        for name, content in files.items():
            (tmp_path / name.partition("*")[0]).parent.mkdir(exist_ok=True)
            for path in sorted(tmp_path.glob(name)) or [tmp_path / name]:
                _write(path, content)
                for folder in (path.parent, path.parents[1]) if path.name != "trial.json" else ():
                    reseal(folder)  # a stranger's digests are right
        ended = run_command(*(known.get(word, word) for word in words.split(" ")), folder=tmp_path)
        print(ended)
        ended.require_answer()
        if ended.code == 0 and (tmp_path / "run").exists():
            assert np.isfinite(load_trial(tmp_path / "run").row["heldout_loss"]), ended
        elif ended.code == 0 and ended.words[0] in ("sample", "evaluate"):
            assert "rows:" in ended.out or "held-out loss" in ended.out, ended
        return ended

    return call


@pytest.mark.parametrize("name", CASES, ids=lambda name: name[:60])
def test_wrong_input_is_answered_in_one_line_or_rightly(name, answered):
    words, says, files = CASES[name]
    ended = answered(words, **files)
    if says:
        assert ended.code in (1, 2), ended
        assert says in " ".join((ended.out + ended.err).replace("│", " ").split()), ended


def _mutated(random):
    """A table in which a few bytes, lines or cells are others."""
    content = _csv().encode()
    for _ in range(random.randrange(1, 5)):
        place = random.randrange(len(content))
        before, after = content[:place], content[place:]
        content = random.choice((
            before + random.randbytes(1) + after[1:],
            before + after[random.randrange(1, 200) :],
            before + random.randbytes(random.randrange(1, 20)) + after,
            before + random.choice((b'"', b"\n", b",", b";", b"\r", b"\0", b"e9")) + after,
            before + content[: random.randrange(1, len(content) + 1)] + after,
            content.replace(*random.choice(((b",", b";"), (b".", b","), (b"\n", b"")))),
        )) or b"a"  # fmt: skip
    return content


@pytest.mark.parametrize("number", range(25))
def test_a_changed_table_is_answered_in_one_line_or_rightly(number, answered):
    answered(f"train a.csv {QUICK}", **{"a.csv": _mutated(Random(number))})


VALUES = (
    *("0", "-1", "1e9", "nan", "inf", "-inf", "''", "x", "3.7", "$x$", "..", "/dev/null"),
    *(str(10**9), str(10**20), "a,b", "1" * 400, "None", "[]", "\u202e", "=", "--"),
)
NAMES = {
    "train good.csv": "family params depth process steps batch-size lr holdout seed device",
    "sample RUN": "num steps scheduler seed device out",
    "evaluate RUN": "data",
    "compare good.csv": "match budget families seeds params process steps device workers executor",
}


@pytest.mark.parametrize("number", range(15))
def test_options_at_random_are_answered_in_one_line_or_rightly(number, answered):
    random = Random(number)
    command = random.choice(list(NAMES))
    names = NAMES[command].split()
    chosen = random.sample(names, min(2, len(names)))
    answered(" ".join([command, *(f"--{name} {random.choice(VALUES)}" for name in chosen)]))
