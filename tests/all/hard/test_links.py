"""Links in folders of runs and studies: no command writes or deletes where they lead to."""

import shutil

import pytest

from make import contents
from runs import READABLE

TRAIN = f"train {' '.join(READABLE)} --out run"
EXPLAIN = "explain run --no-simplify --num 0"
PARTS = "denoiser", "reverse"
COMMANDS = {
    TRAIN: ("readable", PARTS),
    f"{TRAIN} --fresh --tensorboard":
        ("readable", (*PARTS, "tensorboard", ".lock")),
    "sample run --num 5 --out drawn.csv": ("readable", PARTS[:1]),
    "evaluate run": ("readable", PARTS),
    EXPLAIN:
        ("readable", (*PARTS, "explanation", "explanation/simplified")),
    "report run": ("readable", PARTS),
    "impute run people.csv --out filled.csv": ("table", PARTS[:1]),
    "compare study.yaml --out run":
        ("study", ("trials", "trials/*", "trials/*/denoiser")),
    "report ./run": ("study", ("trials", "trials/*", "trials/*/reverse")),
    "tune moons --families mlp --tries 2 --budget 600 --steps 2 --out run":
        ("", ("trials",)),
}  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS)
def test_nothing_outside_a_folder_is_written_or_deleted(words, runs, cli, tmp_path, monkeypatch):
    name, links = COMMANDS[words]
    for number, link in enumerate(links):
        here, outside = tmp_path / str(number), tmp_path / f"outside-{number}"
        shutil.copytree(runs(name or "study").parent, here)
        monkeypatch.chdir(here)
        if not name:
            shutil.rmtree(here / "run")
            assert cli(*words.replace("--tries 2", "--tries 1").split()).code == 0
        path = next((here / "run").glob(link), here / "run" / link)
        path.parent.mkdir(parents=True, exist_ok=True)
        target = outside / "there"
        outside.mkdir()
        if path.exists():  # what the command would read is there
            path.rename(target)
        elif path.name == ".lock":
            target.write_text("")
        else:
            target.mkdir()
        (target if target.is_dir() else outside).joinpath("canary").write_text("")
        path.symlink_to(target)
        before = contents(outside)
        outcome = cli(*words.split())
        assert contents(outside) == before, (link, outcome.err)
        assert outcome.code == 1, (link, outcome.out)
        assert "by a link" in outcome.err.splitlines()[-1], (link, outcome.err)
