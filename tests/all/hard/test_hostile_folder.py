"""Commands in a working folder of a stranger's: none of its modules or settings runs."""

import json
import os
import subprocess
import sys

from hostile import set_traps
from make import study
from mixed_tables import people
from runs import copied

CALLS = """
import sys
del sys.path[0]  # as __main__.py does
import json, os
import pytest
from command_line import call_command
from helpers import without_network
asked = without_network(pytest.MonkeyPatch())
for words in json.loads(sys.argv[1]):
    code = call_command(*words.split())
    assert code == 0, words
    assert not {"", os.getcwd()} & set(sys.path), words
assert not asked, asked
"""
COMMANDS = (
    "compare study.yaml --workers 1 --device cpu --quick --out study",
    "tune study.yaml --tries 1 --workers 1 --device cpu --out tuning",
    "train rows.csv --family kan --params 400 --steps 3 --quick --out run",
    "sample table",
    "sample captions --num 1 --prompt dark",
    "impute table rows.csv --out filled.csv",
    "evaluate table",
    "explain readable --no-simplify --num 0",
    "report study",
    "sample readable --steps 2 --num 20 --animate moves.gif",
)


def test_nothing_in_it_is_imported_by_commands_or_workers_and_no_network_is_asked(runs, tmp_path):
    """Workers on Ray are in such a folder in ``tests/all/study/test_interruptions.py``."""
    for name in ("table", "readable", "captions"):
        copied(runs(name), tmp_path / name)
    config = study(models=[{"family": "kan"}], budget={"amount": 600})
    (tmp_path / "study.yaml").write_text(config.to_yaml())
    people(40, 0).to_csv(tmp_path / "rows.csv", index=False)
    set_traps(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("PYTHONSAFEPATH", None)  # which a command in this process has set
    for words in (["-m", "kan_diffusion", "--version"], ["-c", CALLS, json.dumps(COMMANDS)]):
        command = [sys.executable, *words]
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert ended.returncode == 0, ended.stderr.decode()
        assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
