"""What the playground is compared with is what the package computes."""

import importlib.util
import json

import pytest

from docs import ROOT


def _flat(value):
    """Numbers and words of a fixture in their order, with the names before them."""
    if isinstance(value, dict):
        return [part for key, inner in value.items() for part in (key, *_flat(inner))]
    if isinstance(value, list):
        return [part for inner in value for part in _flat(inner)]
    return [value]


def test_fixtures_are_what_the_package_computes():
    path = ROOT / "playground" / "fixtures.py"
    spec = importlib.util.spec_from_file_location("playground_fixtures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kept, now = _flat(json.loads(module.FILE.read_text())), _flat(module.fixtures())
    assert len(kept) == len(now)
    for old, new in zip(kept, now, strict=True):
        assert new == (old if isinstance(old, str) else pytest.approx(old, rel=1e-4, abs=1e-5))
