import ast
import importlib
from pathlib import Path

import kan_diffusion

SOURCE = Path(kan_diffusion.__file__)
MODULES = {path: ast.parse(path.read_text()) for path in SOURCE.parent.rglob("*.py")}


def test_public_names_are_there_documented_and_seen_by_type_checkers():
    checked = {
        alias.name: f"kan_diffusion.{node.module}"
        for node in ast.parse(SOURCE.with_suffix(".pyi").read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name  # else type checkers take it for the stub's own
    }
    assert set(checked) == set(kan_diffusion.__all__) - {"__version__"}
    assert set(dir(kan_diffusion)) == set(checked)
    for name, module in checked.items():
        value = getattr(kan_diffusion, name)
        assert getattr(importlib.import_module(module), name) is value
        if callable(value):
            assert value.__doc__, name
            assert value.__module__.startswith("kan_diffusion."), name


def test_no_module_imports_another_by_a_string():
    # import-linter sees statements only. The public names are lazy, and the others import what
    # a user names as package.module:NAME.
    allowed = {"__init__.py", "imports.py"}
    for path, tree in MODULES.items():
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        if path.relative_to(SOURCE.parent).as_posix() not in allowed:
            assert not names & {"import_module", "__import__"}, path
