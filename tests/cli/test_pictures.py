from PIL import Image

from runs import copied


def test_prompts_become_files_and_a_sheet(runs, cli, tmp_path):
    run, out = copied(runs("captions"), tmp_path / "run"), tmp_path / "drawn"
    words = ["--prompt", "a bright picture", "--prompt", "a brigth one", "--num", "3"]
    outcome = cli("sample", run, *words, "--guidance", "2", "--steps", "3", "--out", out)
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"6 pictures: {out}\n"
    said = " ".join(outcome.err.split())
    assert "'brigth' was never seen; nearest known: bright" in said
    assert "'one' was never seen" in said
    names = sorted(path.name for path in out.iterdir())
    stems = ["01-a-bright-picture", "02-a-brigth-one"]
    assert names == [*(f"{stem}-{n}.png" for stem in stems for n in (1, 2, 3)), "sheet.png"]
    with Image.open(out / names[0]) as picture:
        assert (picture.size, picture.mode) == ((8, 8), "L")
    assert (
        "exists; choose another path, or overwrite it"
        in cli("sample", run, *words, "--out", out).error
    )
    # Without a place the pictures go beside the run, and never over others.
    for place in ("pictures", "pictures-2"):
        told = cli("sample", run, "--num", "2", "--steps", "2").out
        assert told == f"2 pictures: {run / place}\n"


def test_overwriting_writes_over_pictures_of_the_same_names_and_no_others(runs, cli, tmp_path):
    out = tmp_path / "drawn"
    for seed in ("0", "1"):  # what is asked for twice is drawn twice
        words = ["--prompt", "dark", "--prompt", "dark", "--num", "1", "--seed", seed]
        shared = ["--steps", "2", "--out", out, "--overwrite"]
        assert cli("sample", runs("captions"), *words, *shared).code == 0
        names = ["01-dark-1.png", "02-dark-1.png", "sheet.png"]
        assert sorted({path.name for path in out.iterdir()} - {"holiday-2024.png"}) == names
        (out / "holiday-2024.png").write_bytes(b"somebody's")


def test_a_class_is_asked_for_by_its_name(runs, cli, tmp_path):
    def drawn(*words):
        out = tmp_path / "-".join(words)
        shared = ["--num", "1", "--steps", "2", "--out", out]
        outcome = cli("sample", runs("classes"), *words, *shared)
        assert outcome.code == 0
        said = " ".join(outcome.err.split())
        return (out / f"{words[1]}-1.png").read_bytes(), said

    named, said = drawn("--class", "dark")
    assert "never seen" not in said
    assert named == drawn("--prompt", "dark")[0] != drawn("--class", "dark", "--seed", "1")[0]


def test_a_run_is_judged_beside_real_pictures(runs, cli):
    outcome = cli("evaluate", runs("classes"))
    assert outcome.code == 0, outcome.err
    for said in ("spread within a class", "classes as asked"):
        assert f"{said} (real against real)" in outcome.out
    said = "4 pictures of 'pictures' that were not trained on"
    assert said in " ".join(outcome.out.split())


def test_pictures_are_described_and_nothing_is_trained(runs, cli):
    words = ("train", runs("captions").parent / "pictures", "--describe")
    said = cli(*words).out
    assert said.startswith(
        "20 pictures of 32 x 32 pixels in grey to train on, 4 held out, with captions such as 'a "
    )
    said = cli(*words, "--size", 8, "--mode", "RGB", "--holdout", 0.5).out
    assert said.startswith("12 pictures of 8 x 8 pixels in colour to train on, 12 held out")
