"""Models of tables and pictures are judged again as if that had been first."""

import pytest

from kan_diffusion.data.sources import data_from_name
from kan_diffusion.study.trial import run_trial
from make import study, trial_content
from mixed_tables import people
from picture_folders import write_pictures
from short_training import never

NUMBERS = {"num_noised": 100, "num_samples": 30, "num_likelihood": 12, "num_real_pairs": 2}


@pytest.fixture
def data(request, tmp_path):
    """Settings of data: a mixed table, or pictures with captions or classes."""
    if request.param == "table":
        people(200, 0).to_csv(tmp_path / "people.csv", index=False)
        return data_from_name(str(tmp_path / "people.csv"))
    return {"pictures": str(write_pictures(tmp_path / request.param, request.param))}


@pytest.mark.parametrize("data", ["table", "captions", "classes"], indirect=True)
def test_a_model_judged_again_has_the_row_of_one_judged_so_at_once(data, tmp_path):
    changes = {"effort": "full", "num_samples": 20, "num_drawn": 3}

    def trial(**changes):
        evaluation = {**NUMBERS, "num_drawn": 4, "moments": [], "effort": "quick", **changes}
        given = {"evaluation": evaluation, "training": {"steps": 3, "batch_size": 8}}
        if isinstance(data, dict):
            tiny = {"hidden": [8, 8], "settings": {"width": 16, "patch": 4}}
            given |= {"process": "flow", "sampling": {"steps": 2}}
            given |= {"models": [{"family": "dit-kan", **tiny}]}
        return study(data=[data], **given).pinned().trials()[-1]

    run_trial(trial(**changes), tmp_path / "once", device="cpu")
    run_trial(trial(), tmp_path / "again", device="cpu")
    wanted, first = (trial_content(tmp_path / name) for name in ("once", "again"))
    assert first["judged"] != wanted["judged"] or first["files"] != wanted["files"]
    run_trial(trial(**changes), tmp_path / "again", device="cpu", on_progress=never)
    assert trial_content(tmp_path / "again") == wanted
