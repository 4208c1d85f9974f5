import base64
import re

from html_page import Page
from kan_diffusion.report import ReportContents, write_report
from kan_diffusion.study.results.rows import Results
from synthetic_study import BUDGETS, make_contents


def test_every_figure_is_a_file_and_a_picture_in_the_page(tmp_path):
    contents = make_contents(count=60)
    kept = ("swiss roll", "KAN"), ("checkerboard", "MLP")
    contents.trajectories = {key: contents.trajectories[key] for key in kept}
    written = write_report(contents, tmp_path)
    page = Page(written.read_text())
    files = {path.name for path in (tmp_path / "figures").iterdir()}
    kinds = ("samples", "forest", "excess-by-level", "loss", "metrics", "data", "corruption")
    expected = {f"{kind}-{data}.png" for kind in kinds for data in ("swiss-roll", "checkerboard")}
    expected |= {"differences.png", "lead.png"}  # over the two
    expected |= {"reverse-swiss-roll-kan.png", "reverse-checkerboard-mlp.png"}
    assert files == expected
    moving = ("From noise to samples", "What training changes")
    assert {f"{title}, {data}" for title in moving for data in contents.data_names()} <= set(
        page.pictures
    )
    assert len(page.pictures) == len(page.images) == len(files) + 4
    charts = [image for image in page.images if image.startswith("data:image/svg+xml;base64,")]
    assert len(charts) >= 9
    assert all(load.startswith("data:image/") for load in page.loads)
    assert set(page.links) <= set(page.ids)
    assert page.empty == []
    assert written.stat().st_size < 2e6


def test_fifteen_families_on_one_data_set_make_a_small_page(tmp_path):
    many = make_contents(
        ("swiss roll",), None, 4, count=1_000, budget=BUDGETS[0], families=True, failed=False
    )
    assert write_report(many, tmp_path).stat().st_size < 12e6 / 8


def test_names_of_mathematics_and_in_any_script_are_drawn_as_they_are_written(tmp_path):
    made = make_contents(("wine",), ("KAN", "MLP"), 2, count=9)
    names = {"wine": r"$\frac$ a$b", "KAN": r"$\unknown{$", "MLP": "$x$ 质量 😀"}
    rows = made.results.rows.replace(names)
    page = write_report(ReportContents("$", "q", Results.of(rows)), tmp_path).read_text()
    assert "could not be drawn" not in page
    drawn = [
        base64.b64decode(found).decode()
        for found in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    ]
    assert any(r"$\unknown{$" in svg for svg in drawn)
    assert any("$x$ 质量 😀" in svg for svg in drawn)
