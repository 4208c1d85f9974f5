"""A family of one's own: five lines in a module, named by where it is."""

import sys

import pandas as pd
import yaml

from kan_diffusion.diffusion.sampling import PointDiffusionPipeline
from make import study

FAMILY = """\
from kan_diffusion.denoisers import Family, NetworkDenoiser

SHALLOW = Family("shallow", NetworkDenoiser, 1, 1e-2, kind="mlp", title="Shallow")
"""


def test_a_family_of_one_line_goes_through_a_whole_study(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # where the folder comes in
    (tmp_path / "family_of_one_line.py").write_text(FAMILY)
    own = study(seeds=2, models=[{"family": "kan"}], budget={"amount": 700})
    settings = own.model_dump(mode="json")
    settings["models"].append({"family": "family_of_one_line:SHALLOW"})
    settings["evaluation"]["moments"] = []  # no pictures of the reverse process
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings))
    done = cli("compare", "own.yaml", "--out", "run")
    assert done.code == 0, done.err
    # With two seeds there is no verdict, and that is said in words.
    said = " ".join(done.out.split())
    assert "paired difference (KAN minus MLP)" in said
    assert "0.05 is out of reach" in said
    rows = pd.read_parquet(tmp_path / "run" / "results.parquet").to_dict("records")
    own = [row for row in rows if row["name"] == "Shallow"]
    assert [row["seed"] for row in own] == [0, 1]
    for row in own:
        assert row["error"] is None
        assert row["kind"] == "mlp"
        assert abs(row["parameters"] - 700) <= 14
        assert row["excess"] > 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Shallow" in page
    # One hidden layer: what the family says.
    folder = tmp_path / "run" / "trials" / own[0]["trial"]
    assert len(PointDiffusionPipeline.from_pretrained(folder).denoiser.config.hidden) == 1
