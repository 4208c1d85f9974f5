"""Identities of trials from before there was a setting."""

import pytest

from make import study


@pytest.mark.parametrize(
    ("key", "default", "other"),
    [
        ("patience", None, 0.5),
        ("max_seconds", None, 0.5),
        ("processor_seconds", None, 0.5),
        ("timesteps", "uniform", "logit-normal"),
        ("accumulation_steps", 1, 2),
    ],
)
def test_trial_id_is_what_it_was_before_there_was_a_setting(key, default, other):
    (first, *_), (changed, *_) = (
        study(training={"steps": 10, key: value}).trials() for value in (default, other)
    )
    assert f'"{key}"' not in first.identity
    assert changed.id != first.id
