"""Modules that a user names: alone from the working folder, whose other modules nobody gets."""

import logging
import sys
from pathlib import Path
from unittest import mock

import pytest

from helpers import refused
from kan_diffusion.imports import import_own


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(sys.modules):  # forgets what is imported meanwhile
        yield tmp_path


def test_a_module_or_package_of_the_working_folder_is_imported_and_named(folder, caplog):
    caplog.set_level(logging.INFO)
    Path("named_alone.py").write_text("VALUE = 1\n")
    Path("named_package").mkdir()
    Path("named_package/__init__.py").touch()
    Path("named_package/part.py").write_text("from .other import VALUE\n")
    Path("named_package/other.py").write_text("VALUE = 2\n")
    Path("named_folder").mkdir()
    Path("named_folder/part.py").write_text("VALUE = 3\n")
    for name, value in (("named_alone", 1), ("named_package.part", 2), ("named_folder.part", 3)):
        path, finders = sys.path[:], sys.meta_path[:]
        import_own(name)
        assert value == sys.modules[name].VALUE
        assert (sys.path, sys.meta_path) == (path, finders)
        file = folder / Path(*name.split(".")).with_suffix(".py")
        assert caplog.messages[-1] == f"module '{name}' is imported from '{file}'"


def test_nothing_else_of_the_working_folder_is_imported(folder):
    Path("named_sibling.py").write_text("import other_sibling\n")
    for name in ("other_sibling", "this"):  # one that is not named, and one of Python's
        Path(f"{name}.py").write_text("raise SystemExit('a module that nobody named')\n")
    with refused("No module named 'other_sibling'.*make a package of modules that import each"):
        import_own("named_sibling")
    assert "named_sibling" not in sys.modules
    Path("named_broken.py").write_text("VALUE = \n")
    with refused("'named_broken' cannot be imported .SyntaxError: invalid syntax .*line 1"):
        import_own("named_broken")
    import_own("json.tool")
    for name in ("not_there", "json.not_there"):
        with refused(f"module '{name}' cannot be imported .* install it"):
            import_own(name)
    with refused("'./named.py' cannot be imported: .*; name a module, not a file"):
        import_own("./named.py")
    assert "json" in sys.modules  # what was there before stays
