"""A family and a metric of one's own: a study file names them by the module where they are."""

import pandas as pd
import yaml

from html_page import Page
from kan_diffusion.diffusion.sampling import PointDiffusionPipeline
from make import study

MODULE = """\
from kan_diffusion.denoisers import Family, NetworkDenoiser
from kan_diffusion.evaluation.metrics import Metric

SHALLOW = Family("shallow", NetworkDenoiser, 1, 1e-2, kind="mlp", title="Shallow")
REACH = Metric("reach", "largest number", "lower", lambda x, y, rng: float(x.abs().max()))
"""


def test_what_a_study_file_names_by_its_module_goes_through_a_whole_study(
    cli, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "family_and_metric.py").write_text(MODULE)
    budget = {"match": "params", "amount": 900}
    settings = study(seeds=2, models=[{"family": "kan"}], budget=budget).model_dump(mode="json")
    settings["models"].append({"family": "family_and_metric:SHALLOW"})
    settings["evaluation"] |= {"moments": [], "metrics": ["family_and_metric:REACH"]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings))
    # What the command line says is validated together with what the file says.
    done = cli("compare", "own.yaml", "--match", "params", "--budget", "700", "--out", "run")
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "paired difference (KAN minus MLP)" in said
    assert "0.05 is out of reach" in said  # with two seeds there is no verdict
    rows = pd.read_parquet(tmp_path / "run" / "results.parquet").to_dict("records")
    own = [row for row in rows if row["name"] == "Shallow"]
    assert [row["seed"] for row in own] == [0, 1]
    for row in own:
        assert row["error"] is None
        assert row["kind"] == "mlp"
        assert abs(row["parameters"] - 700) <= 14
        assert min(row["excess"], row["reach"]) > 0
    page = Page((tmp_path / "run" / "report.html").read_text())
    assert {"Shallow", "KAN"} <= {cell for row in page.tables["All trials"] for cell in row}
    # One hidden layer: what the family says.
    folder = tmp_path / "run" / "trials" / own[0]["trial"]
    assert len(PointDiffusionPipeline.from_pretrained(folder).denoiser.config.hidden) == 1
