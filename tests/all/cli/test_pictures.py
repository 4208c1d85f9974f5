from make import picture_study


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
    page = (out / "report.html").read_text()
    assert page.count('<img src="data:image/') >= 3  # real ones, and those of two models
    assert "The reverse process of every model" in page
    assert "could not be drawn" not in page
