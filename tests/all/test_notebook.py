import base64
import io
import json
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from jupyter_client.provisioning import local_provisioner
from nbclient import NotebookClient
from PIL import Image

from notebook_kernels import Forked

EXAMPLES = Path(__file__).parents[2] / "examples"
_FEW = {"KAN_DIFFUSION_NOTEBOOK_STEPS": "3", "KAN_DIFFUSION_NOTEBOOK_EACH": "2"}


def _shown(cell, kind):
    """What a cell shows of a kind, such as ``text/html``."""
    return [output["data"][kind] for output in cell["outputs"] if kind in output.get("data", {})]


def _images(cell):
    return [base64.b64decode(image) for image in _shown(cell, "image/png")]


def _tables(cell):
    return [html for html in _shown(cell, "text/html") if "<table" in html]


def _run(name, folder, **short):
    """Code cells of a notebook after it has run in a folder, every picture with something in it."""
    client = NotebookClient(
        nbformat.read(EXAMPLES / name, as_version=4),
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    env = os.environ | short | {"OMP_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_provisioner, "launch_kernel", Forked)
        cells = [c for c in client.execute(env=env).cells if c.cell_type == "code"]
    for cell in cells:
        for output in cell["outputs"]:
            assert output["output_type"] != "error", output
            assert "Warning" not in output.get("text", ""), f"cell '{cell['id']}'"
        for image in _images(cell):
            pixels = np.asarray(Image.open(io.BytesIO(image)).convert("L"))
            assert pixels.std() > 5, f"cell '{cell['id']}' shows an empty picture"
    return cells


def test_notebook_runs_from_top_to_bottom_and_every_picture_and_table_is_there(tmp_path):
    cells = _run("kan-diffusion.ipynb", tmp_path, KAN_DIFFUSION_NOTEBOOK_EPOCHS="2")

    pictures, tables = 0, []
    assert sum(len(_shown(cell, "image/svg+xml")) for cell in cells) == 3  # a network's
    for cell in cells:
        images = _images(cell)
        asked = len(re.findall(r"^show(_reverse|_samples)?\(", cell["source"], re.MULTILINE))
        assert len(images) == asked, f"cell '{cell['id']}'"
        pictures += asked
        tables += _tables(cell)

    assert pictures >= 10
    assert len(tables) == 2
    for table in tables:
        for text in ("KAN 32-32-32", "22,080", "MLP 32-32-32", "2,306", "KAN 32", "1,600"):
            assert f">{text}<" in table
        assert "real against real" in table
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_notebook_of_tables_goes_from_a_file_to_rows_a_report_and_filled_gaps(tmp_path):
    cells = _run("tables.ipynb", tmp_path, KAN_DIFFUSION_NOTEBOOK_SECONDS="2")

    assert sum(len(_images(cell)) for cell in cells) == 2
    assert all(_tables(cell) for cell in cells if "display(\n" in cell["source"])
    files = {"people.csv", "people.html", "people-model", "synthetic.csv", "filled.csv"}
    assert {path.name for path in tmp_path.iterdir()} == files
    given, synthetic, filled = (
        pd.read_csv(tmp_path / f"{name}.csv") for name in ("people", "synthetic", "filled")
    )
    assert list(synthetic) == list(filled) == list(given)
    assert len(synthetic) == 3_000
    assert filled["income"].notna().all()
    pd.testing.assert_frame_equal(filled[given.notna()], given)


def test_notebook_of_pictures_trains_twins_asks_them_and_shows_what_they_draw(tmp_path):
    cells = {cell["id"]: cell for cell in _run("pictures.ipynb", tmp_path, **_FEW)}

    sheets = {name: len(_images(cell)) for name, cell in cells.items() if _images(cell)}
    assert sheets == {"data": 1, "prompt": 2, "way": 1}
    replaced = "".join(output.get("text", "") for output in cells["kanify"]["outputs"])
    assert replaced.count("64-256-64, 8 functions") == 4
    numbers = re.findall(r"<td>([\d.]+)</td>", _tables(cells["train"])[0])
    assert [int(number) for number in numbers[::3]] == pytest.approx([250_000] * 2, rel=0.02)
    assert [path.name for path in tmp_path.iterdir()] == ["digits-kan"]


@pytest.mark.parametrize("name", [path.name for path in sorted(EXAMPLES.glob("*.ipynb"))])
def test_notebook_is_kept_without_outputs_and_without_traces_of_a_machine(name):
    notebook = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))
    nbformat.validate(notebook)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
        absolute = re.search(
            r"(?<![\w/:.])(/(home|root|tmp|Users|work)/|[A-Z]:\\)", "".join(cell["source"])
        )
        assert absolute is None, f"cell '{cell['id']}' has an absolute path"
