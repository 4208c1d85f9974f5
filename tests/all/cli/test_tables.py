import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from html_page import Page
from kan_diffusion.data.sources import load_dataset
from kan_diffusion.study.run import run_study
from kan_diffusion.tables.sources import FileData, TableData
from kan_diffusion.training.config import num_held_out
from make import study
from mixed_tables import people
from one_by_one import one_by_one


def test_a_file_is_described_and_refused_without_torch(tmp_path):
    code = (
        "import sys; from kan_diffusion.cli.app import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'diffusers', 'sklearn'} & {*sys.modules}"
    )
    path = tmp_path / "people.csv"
    people(100, 0).to_csv(path, index=False)
    for file, status, said in ((path, 0, "job: category"), (tmp_path / "no.csv", 1, "no file")):
        command = [sys.executable, "-c", code, "train", str(file), "--describe"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, said in done.stdout + done.stderr) == (status, True), done.stderr


def test_other_rows_are_judged_with_and_a_lost_file_costs_the_tests_of_copies(cli, tmp_path):
    run, file = tmp_path / "run [new]", tmp_path / "people.csv"
    people(300, 0).to_csv(file, index=False)
    words = ("--family", "mlp", "--params", 400, "--steps", 20, "--batch-size", 64)
    assert cli("train", file, *words, "--device", "cpu", "--out", run).code == 0
    people(80, 5).to_csv(tmp_path / "others.csv", index=False)

    def judged(*data):
        outcome = cli("evaluate", run, *data)
        said = " ".join(Page((run / "tables.html").read_text()).text)
        return outcome.out, said

    _, said = judged("--data", tmp_path / "others.csv")
    assert "Real rows are those of 'others'." in said
    learned = 240 - num_held_out(240)  # those held out decide when training ends
    assert "80 real rows are compared with 1,000 synthetic ones" in said
    assert f"from the {learned} training rows" in said
    out, said = judged()
    start = out.index("Synthetic rows")
    assert "run[new]on" in "".join(out[:start].split())
    assert f"Page: {run / 'tables.html'}" in " ".join(out.split())
    assert (
        f"Of its 300 rows the model learned {learned}, {240 - learned} decided when training ended,"
        " and 60 were held out." in said
    )
    assert "60 real rows are compared" in said
    assert judged("--data", file)[1] == said

    file.unlink()
    outcome = cli("evaluate", run, "--data", tmp_path / "others.csv")
    assert outcome.code == 0
    assert "cannot be said without the rows" in " ".join(outcome.out.split())
    assert "there is no file" in cli("evaluate", run).error


@pytest.mark.parametrize("seed", [0, 3])
def test_rows_are_split_as_they_are_encoded(tmp_path, seed):
    people(90, 0).to_csv(tmp_path / "people.csv", index=False)
    for source in (FileData(path=tmp_path / "people.csv"), TableData(table="wine")):
        dataset, frame = load_dataset(source, 7, seed), source.content()[0]
        parts = zip(
            source.split(len(frame), 7, seed), (dataset.train, dataset.heldout), strict=True
        )
        for places, rows in parts:
            decoded = dataset.codec.decode(rows.float())
            for name in frame.select_dtypes("number"):
                expected = frame[name].iloc[places.numpy()]
                np.testing.assert_allclose(decoded[name], expected, rtol=1e-4, err_msg=name)


def test_models_are_compared_on_a_table_without_conditions(cli, tmp_path, caplog):
    frame = people(60, 0)
    frame.insert(0, "number", np.arange(60))
    frame.to_csv(tmp_path / "people.csv", index=False)
    data = {"path": str(tmp_path / "people.csv"), "kinds": {"smokes": "category"}}
    models = [{"family": "mlp", "params": 400, "name": name} for name in ("one", "two")]
    config = study(data=[data], training={"steps": 10, "batch_size": 64}, models=models)
    results = run_study(config.pinned(), tmp_path / "study", executor=one_by_one)
    assert results.rows["error"].isna().all()
    assert caplog.text.count("column 'number' identifies rows") == 1  # once for all trials
    trial = results.trials[0].folder
    assert cli("sample", trial, "--num", 20, "--out", tmp_path / "rows.csv").code == 0
    assert pd.read_csv(tmp_path / "rows.csv")["number"].is_unique
    assert "trained without conditions" in cli("sample", trial, "--where", "job=nurse").error
