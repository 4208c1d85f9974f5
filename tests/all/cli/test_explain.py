import json
import re

import torch

from helpers import assert_same_state, refused
from kan_diffusion.errors import RunFolderError
from kan_diffusion.study.folder import WEIGHTS, load_weights, recorded_steps
from kan_diffusion.study.measure import load_run
from runs import copied


def test_a_run_is_explained_beside_it_and_its_training_is_played(cli, runs, tmp_path):
    run = copied(runs("readable"), tmp_path / "run")
    assert recorded_steps(run) == recorded_steps(run, WEIGHTS) == [0, 10, 20]
    denoiser = load_run(run)[1].denoiser
    last = load_weights(run / WEIGHTS / "20.safetensors", denoiser)
    assert_same_state(last, denoiser)
    first = load_weights(run / WEIGHTS / "0.safetensors", denoiser)
    assert not torch.equal(*(next(each.parameters()) for each in (first, denoiser)))
    with refused("cannot be read", RunFolderError):
        load_weights(run / "samples.safetensors", denoiser)
    done = cli("explain", run, "--no-simplify", "--num", 30, "--levels", "50")
    assert done.code == 0, done.err
    out = run / "explanation"
    assert str(out / "explanation.html") in done.out.replace("\n", "")
    assert (out / "formulas.json").is_file()
    page = (out / "explanation.html").read_text(encoding="utf-8")
    assert "kan-diffusion explain" in page
    assert "--no-simplify" in page
    assert "could not be drawn" not in page
    stages, training = re.findall(
        r'<figure class="player">.*?<script type="application/json">(.*?)</script>', page, re.DOTALL
    )
    titles = [panel["title"] for panel in json.loads(stages)["panels"]]
    assert titles == ["network", "exact"]
    assert json.loads(training)["labels"] == ["step 0", "step 10", "step 20"]
    words = ("explain", run, "--no-simplify", "--num", 0, "--levels", "700,50")
    assert cli(*words, "--out", tmp_path / "there").code == 0
    assert (tmp_path / "there" / "explanation.html").is_file()
