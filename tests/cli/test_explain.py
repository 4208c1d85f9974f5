import shutil


def test_bad_levels(cli, runs, tmp_path):
    words = ["explain", runs("readable"), "--no-simplify", "--out", tmp_path / "there"]
    for levels in ("ten", "1,,2", "-3", "20,1000"):
        assert "--levels" in cli(*words, f"--levels={levels}").error
    assert not (tmp_path / "there").exists()


def test_an_unknown_function_has_a_suggestion_and_an_mlp_no_edges(cli, runs):
    run = runs("readable")
    error = cli("explain", run, "--library", "linear,tahn").error
    assert "'tahn'" in error
    assert "'tanh'" in error
    assert "nowhere" in cli("explain", run, "--library", "nowhere:NAME").error
    assert "only KANs have edges to read" in cli("explain", runs("points")).error
    assert not (runs("points") / "explanation").exists()


def test_a_study_has_trials_to_explain(cli, runs, tmp_path):
    shutil.copytree(runs("readable"), tmp_path / "study" / "trials" / "one")
    shutil.copytree(runs("points"), tmp_path / "study" / "trials" / "two")
    (tmp_path / "study" / "study.yaml").touch()
    done = cli("explain", tmp_path / "study")
    assert done.code == 1
    (command,) = [line for line in done.out.splitlines() if line.startswith("kan-diffusion")]
    assert f"kan-diffusion explain {tmp_path / 'study' / 'trials' / 'one'}  # " in command
    shutil.rmtree(tmp_path / "study" / "trials" / "one")
    assert "it is a study" in cli("explain", tmp_path / "study").error
