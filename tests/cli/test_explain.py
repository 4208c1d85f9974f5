def test_what_cannot_be_explained_is_one_line(cli, runs):
    run = runs("readable")
    for words, message in (
        ((run, "--library", "linear,tahn"), "'tahn', did you mean 'tanh'"),
        ((run, "--library", "nowhere:NAME"), "nowhere"),
        ((runs("points"),), "only KANs have edges to read"),
        ((runs("study"),), "it is a study"),
    ):
        assert message in cli("explain", *words).error
        assert not (words[0] / "explanation").exists()
