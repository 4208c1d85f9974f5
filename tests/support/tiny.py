"""Other names of what `make.py` has, for tests that still use them."""

from make import EVALUATION, picture_study, reseal, study, trial_content, without_clock, written

tiny_study, tiny_picture_study = study, picture_study
__all__ = [
    "EVALUATION", "reseal", "tiny_picture_study", "tiny_study", "trial_content", "without_clock",
    "written",
]  # fmt: skip
