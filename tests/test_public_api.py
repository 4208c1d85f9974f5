from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import kan_diffusion

SOURCE = Path(kan_diffusion.__file__)
MODULES = {path: ast.parse(path.read_text()) for path in SOURCE.parent.rglob("*.py")}


@pytest.mark.parametrize("name", kan_diffusion.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(kan_diffusion, name)
    if isinstance(value, type) or callable(value):
        assert value.__doc__
        assert value.__module__.startswith("kan_diffusion.")


def test_type_checkers_see_the_public_names() -> None:
    checked = {
        alias.name: node.module
        for block in MODULES[SOURCE].body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(checked) == set(kan_diffusion.__all__) - {"__version__"}
    for name, module in checked.items():
        assert getattr(importlib.import_module(module), name) is getattr(kan_diffusion, name)
    assert set(dir(kan_diffusion)) == set(kan_diffusion.__all__)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'KAN2'"):
        kan_diffusion.KAN2  # noqa: B018
    with pytest.raises(ImportError):
        from kan_diffusion import KAN2  # noqa: F401


def test_modules_say_what_they_offer() -> None:
    for path, tree in MODULES.items():
        assert ast.get_docstring(tree), path
        defined = {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        if path.name not in ("_version.py", "__main__.py") and len(tree.body) > 1:
            assert "__all__" in defined, path


def test_no_module_imports_another_by_a_string() -> None:
    # import-linter sees statements only. The public names are lazy, and the others import what
    # a user names as package.module:NAME.
    allowed = {"__init__.py", "imports.py"}
    for path, tree in MODULES.items():
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        if path.relative_to(SOURCE.parent).as_posix() not in allowed:
            assert not names & {"import_module", "__import__"}, path


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (
            "kan_diffusion, kan_diffusion.cli",
            "torch numpy pandas diffusers sklearn matplotlib pydantic",
        ),
        ("kan_diffusion.estimator", "torch diffusers accelerate pydantic numba matplotlib"),
    ],
)
def test_imports_load_nothing_heavy(modules: str, absent: str) -> None:
    code = f"import sys, {modules}; print(*sorted(set('{absent}'.split()) & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []
