"""The examples in docstrings run, and every public class of these folders has one."""

import doctest
import importlib
from pathlib import Path

import pytest
import torch

import kan_diffusion

SOURCE = Path(kan_diffusion.__file__).parent
FOLDERS = ("kan", "kanified", "denoisers", "diffusion")
MODULES = [
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    for folder in FOLDERS
    for path in sorted((SOURCE / folder).rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_print_what_they_show(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder(exclude_empty=True).find(
        importlib.import_module(module), extraglobs={"torch": torch}
    )
    said = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for example in found:
            doctest.DocTestRunner().run(example, out=said.append)
    assert not said, "".join(said)
    assert any(example.examples for example in found)


def test_every_public_class_has_an_example_of_at_most_five_lines():
    for part in ("kan", "kanified", "denoisers", "diffusion.sampling"):
        public = f"kan_diffusion.{part}"
        package = importlib.import_module(public)
        own = [k for k, v in vars(package).items() if getattr(v, "__module__", "") == public]
        for name in getattr(package, "__all__", own):
            value = getattr(package, name)
            if isinstance(value, type) and not name.startswith("_"):
                lines = [line for line in (value.__doc__ or "").splitlines() if ">>> " in line]
                assert 1 < len(lines) < 6, name
