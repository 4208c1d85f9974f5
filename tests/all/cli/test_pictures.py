from make import picture_study
from picture_folders import write_pictures


def test_models_are_compared_and_their_pictures_shown(runs, cli, tmp_path):
    data = {"pictures": str(runs("classes").parent / "pictures"), "size": 8, "holdout": 0.5}
    study = picture_study(data, {"settings": {"width": 16}})
    (tmp_path / "study.yaml").write_text(study.to_yaml())
    out = tmp_path / "study"
    outcome = cli("compare", tmp_path / "study.yaml", "--out", out)
    assert outcome.code == 0, outcome.err
    text = " ".join(outcome.out.split())
    assert "the only KAN (DiT KAN)" in text
    assert "pictures as asked" in text
    figures = {path.name.split("-")[0] for path in (out / "figures").iterdir()}
    assert {"pictures", "reverse", "metrics"} <= figures
    page = (out / "report.html").read_text()
    assert "What the models draw" in page
    assert "could not be drawn" not in page


def test_a_spoilt_folder_is_refused_in_one_line(cli, tmp_path):
    root = write_pictures(tmp_path / "own", "captions")
    (root / "03.png").write_bytes(b"no picture")
    for command in ("train", "compare"):
        error = cli(command, root, "--out", tmp_path / "run").error
        assert "'03.png' is no picture that" in error
    assert not (tmp_path / "run").exists()
