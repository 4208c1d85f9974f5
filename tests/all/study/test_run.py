import shutil

import pandas as pd

from kan_diffusion.study.run import load_study, run_study
from make import study


def test_a_study_goes_on_from_its_rows_alone(tmp_path, executor):
    settings = {"executor": executor, "keep_rows": True}
    whole = run_study(study(), tmp_path, **settings)
    shutil.rmtree(tmp_path / "trials")
    pd.testing.assert_frame_equal(load_study(tmp_path).rows, whole.rows, check_dtype=False)
    events = []
    grown = run_study(study(seeds=2), tmp_path, on_event=events.append, **settings)
    assert {event.trial for event in events} == {t.id for t in grown.config.trials() if t.seed}
    pd.testing.assert_frame_equal(
        grown.rows.iloc[:2], whole.rows, check_dtype=False, check_names=False
    )
