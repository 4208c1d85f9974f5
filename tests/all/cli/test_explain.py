from runs import copied


def test_a_run_is_explained_beside_it(cli, runs, tmp_path):
    run = copied(runs("readable"), tmp_path / "run")
    done = cli("explain", run, "--no-simplify", "--num", 30)
    assert done.code == 0, done.err
    out = run / "explanation"
    assert str(out / "explanation.html") in done.out.replace("\n", "")
    assert (out / "formulas.json").is_file()
    page = (out / "explanation.html").read_text(encoding="utf-8")
    assert "kan-diffusion explain" in page
    assert "--no-simplify" in page
    assert "could not be drawn" not in page
    there = tmp_path / "there"
    assert cli("explain", run, "--no-simplify", "--num", 0, "--out", there).code == 0
    assert (there / "explanation.html").is_file()
