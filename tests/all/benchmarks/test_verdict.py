import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import verdict
from kan_diffusion.denoisers.families import get_family
from kan_diffusion.files import write_parquet
from kan_diffusion.report.tables import format_number
from kan_diffusion.study.config import read_study
from kan_diffusion.study.results.rows import Results, read_results
from kan_diffusion.study.results.statistics import Interval
from kan_diffusion.study.results.verdicts import Comparison, Lead, decide
from make import reseal
from synthetic_study import rows_of

KAN = get_family(verdict.KAN).title
ROOT = Path(__file__).parents[3]
PAGE = (
    "# The plan\n\n"
    "<!-- results: written by `make verdict` -->\n<!-- end of results -->\n\nThe end.\n"
)


def test_the_page_says_what_the_committed_rows_hold_and_needs_no_trial(tmp_path):
    results, page = tmp_path / "results" / "verdict", tmp_path / "docs" / "verdict.md"
    page.parent.mkdir()
    page.write_text(PAGE)
    parts = [part for part in verdict.PARTS if part.name.endswith("-22000")]
    for part in parts:
        shutil.copytree(ROOT / verdict.RESULTS / part.name, results / part.name)
    verdict.write_results(parts, results, page)
    before, found, after = re.split(r"<!-- (?:results|end of results).*\n", page.read_text())
    assert before + after == re.sub(r"<!-- (results|end of results).*\n", "", PAGE)
    assert "**The KAN wins at 22,000 parameters**" in found
    # All of it, figures in the same place, is in the page that is kept.
    assert set(found.splitlines()) <= set((ROOT / verdict.PAGE).read_text().splitlines())
    (figure,) = set(re.findall(r"\((\S*22000-parameters\.png)\)", found))
    assert (page.parent / figure).read_bytes()[:4] == b"\x89PNG"

    # Of a study that has only begun the trials are counted, and nothing is said yet.
    (kept,) = (results / "study-22000").rglob("results.parquet")
    rows = pd.read_parquet(kept)
    rows.loc[1:, "error"] = "not run"
    write_parquet(kept, rows)
    reseal(kept.parent)
    verdict.write_results(parts, results, page)
    assert "\nSo far 1 of " in page.read_text()
    assert "### At" not in page.read_text()


@pytest.mark.parametrize("part", [part for part in verdict.PARTS if part.tuned])
def test_committed_results_can_be_read_and_are_those_of_the_page(part):
    budgets = part.results(ROOT / verdict.RESULTS)
    assert budgets
    for path in (ROOT / verdict.RESULTS / part.name).glob("**/study.yaml"):
        # The study file beside the rows is of the same trials.
        planned, rows = read_study(path).trials(), read_results(path.parent).rows
        assert [trial.keys["name"] for trial in planned] == list(rows["name"])
        for key in ("data", "seed", "match", "budget", "family"):
            assert [trial.keys[key] for trial in planned] == list(rows[key])


def _results(models, data=("moons",), measure="excess", **columns):
    """Results of models: name, kind and the values of seeds, None where one failed."""
    values, kinds = ({name: v for name, _, v in models}), {name: kind for name, kind, _ in models}
    return Results.of(rows_of(dict.fromkeys(data, values), kinds, measure=measure, **columns))


def test_tables_are_told_by_what_a_classifier_sees():
    generator = np.random.default_rng(0)
    models = [
        (name, kind, shift + 0.01 * generator.normal(size=10))
        for name, kind, shift in ((KAN, "kan", 0.6), ("M", "mlp", 0.7))
    ]
    results = _results(models, ("iris", "wine"), "c2st", oracle="none", heldout_loss=1.0)
    head, _, *lines = verdict._samples(results).splitlines()[3:]
    assert len(lines) == 2
    for line in lines:
        cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
        difference = float(cells["difference"].split()[0].replace("−", "-"))
        assert difference == pytest.approx(-0.1, abs=0.01)
        # Ten seeds that agree have p = 2 / 2^10, and two data sets were tested.
        assert (cells["p"], cells["p, Holm"]) == ("0.002", "0.0039")


def test_a_model_without_half_of_its_seeds_is_not_the_best():
    def bold(models):
        results = _results(models)
        lines = verdict._means(results, decide(results)).splitlines()[2:]
        return ["**" in line for line in lines], lines

    lost = (KAN, "kan", [None, None])
    assert bold([lost, ("MLP", "mlp", [0.002] * 2)])[1] == ["| MLP | **2.00 ± 0** |"]
    kan = ("K", "kan", [0.002, 0.002, None, None])
    lucky = ("lucky", "mlp", [0.001] * 2 + [None] * 3)
    plain = ("M", "mlp", [0.003] * 3 + [None] * 2)
    assert bold([kan, lucky, plain])[0] == [False, False, True]


def test_an_ablation_sets_every_variant_beside_the_whole_of_its_kind():
    config = read_study(ROOT / verdict.RESULTS / "ablation" / "study.yaml")
    kinds = [get_family(model.family).kind for model in config.models]
    wholes = [kinds.index(kind) for kind in ("kan", "mlp")]
    for number, (model, kind) in enumerate(zip(config.models, kinds, strict=True)):
        settings = config.models[kinds.index(kind)].settings
        if number not in wholes and model.name != "with all but learning":
            # One ingredient is taken away, or given, by its own name or by leaving the other's out.
            variant, absent = model.settings, "absent"
            keys = {**settings, **variant}
            differing = [k for k in keys if variant.get(k, absent) != settings.get(k, absent)]
            assert len(differing) == 1, model.name
    factors = [1.0 if number in wholes else 0.5 + number for number in range(len(kinds))]
    models = [
        (model.name, kind, factor * (1 + 0.01 * np.arange(10)))
        for model, kind, factor in zip(config.models, kinds, factors, strict=True)
    ]
    written = verdict._ablation(_results(models, ("moons", "rings")))
    for number, model in enumerate(config.models):
        lines = re.findall(rf"^\| {model.name} \| (.*) \| (.*) \| (.*) \|$", written, re.MULTILINE)
        if number in wholes:
            assert lines == []
        else:
            # All seeds agree, and so do all draws of them.
            ratio = format_number(factors[number])
            assert lines == [(f"{ratio} *", f"{ratio} *", f"{ratio} [{ratio}, {ratio}]")]


@pytest.mark.parametrize(
    ("better", "worse", "ratio", "said"),
    [
        (10, 0, 0.7, "**The KAN wins at .*The target .* is met. The moonshot .* is met."),
        (9, 0, 0.81, "**The KAN wins at .* The target .* is not met.$"),
        (2, 3, 0.9, "**The MLP wins at 2,300 parameters**: of 13 .* on 2, the best MLP on 3"),
        (0, 0, 0.9, "**Neither wins at .*better on none, the best MLP on none"),
    ],
)
def test_the_first_sentence_says_who_wins(better, worse, ratio, said):
    level = Comparison(
        "data", "excess", "lower", "KAN", "MLP", (1.0, 1.0), Interval(0.0, -1.0, 1.0, 10), 1.0, 1.0
    )
    won = replace(level, interval=Interval(-1.0, -2.0, -0.5, 10), p_holm=0.01)
    lost = replace(level, interval=Interval(1.0, 0.5, 2.0, 10), p_holm=0.01)
    all_of_them = (won,) * better + (lost,) * worse + (level,) * (13 - better - worse)
    found = Lead("KAN", "2,300 parameters", all_of_them, Interval(ratio, None, None, 13))
    first = f"{verdict.judge_winner(found)} {verdict.judge_target(found)}"
    assert re.match(said.replace("**", r"\*\*"), first)
