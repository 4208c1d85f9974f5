import shutil


def test_what_cannot_be_explained_is_one_line(cli, runs):
    run = runs("readable")
    for words, message in (
        *(((run, f"--levels={levels}"), "levels") for levels in ("ten", "1,,2", "-3", "20,1000")),
        ((run, "--library", "linear,tahn"), "'tahn', did you mean 'tanh'"),
        ((run, "--library", "nowhere:NAME"), "nowhere"),
        ((runs("points"),), "only KANs have edges to read"),
    ):
        assert message in cli("explain", *words).error
        assert not (words[0] / "explanation").exists()


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
