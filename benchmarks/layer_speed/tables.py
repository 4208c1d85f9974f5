"""The measurements in words: a page of Markdown whose every figure and verdict is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from baselines import CONTENDERS, FAMILY_CONTENDERS
from baselines.blocks import TOKENS
from kan_diffusion.report.tables import format_number
from layer_speed.targets import TARGETS, Observation, Results, Target, measured
from layer_speed.timing import Row

__all__ = ["format_value", "markdown_page", "target_records"]

_METHOD = (
    "A step is forward, backward and Adam (`torch.optim.Adam(fused=True)` for everybody). In each "
    "repeat every contender runs a block of steps, one contender after another, and each repeat "
    "starts with another one; times are medians over repeats with quartiles in brackets, ratios "
    "are medians of the ratios within a repeat, in which drifts of the machine's speed cancel. "
    "Splines are cubic on [−1, 1], inputs standard normal, float32. What a compiled contender "
    "spends on compilation is not in its steps; it is under *First use*."
)


def target_records(results: Results) -> list[Row]:
    """Every target with its worst observation and how many keep it."""
    records: list[Row] = []
    for target in TARGETS:
        seen = target.observe(results)
        record: Row = {
            "target": target.name,
            "ratio": target.title,
            "bound": f"{target.sign} {target.bound:g}",
            "observed": len(seen),
            "verdict": "not measured",
        }
        if seen:
            kept = sum(target.met(one.value) for one in seen)
            worst = target.worst(seen)
            record |= {
                "kept": kept,
                "worst": worst.value,
                "worst_at": _place(worst),
                "best": (min if target.at_most else max)(one.value for one in seen),
                "verdict": "met" if kept == len(seen) else "missed",
            }
            if target.stretch is not None:
                record |= {
                    "stretch": f"{target.sign} {target.stretch:g}",
                    "kept_stretch": sum(target.met(one.value, target.stretch) for one in seen),
                }
        records.append(record)
    return records


def markdown_page(report: Row, results: Results) -> str:
    """The whole page.

    Args:
        report: The results' head: title, environment, settings and names of the figures.
        results: Rows by part.
    """
    parts = [f"# {report['title']}", *_origins(report)]
    if report["quick"]:
        parts.append(
            "**A quick run: these figures show that the benchmark works and nothing more.**"
        )
    parts += [_METHOD, "## Targets", _summary(results)]
    figures = report["figures"]
    assert isinstance(figures, dict)
    parts += [f"![{alternative}]({name})" for name, alternative in figures.items()]
    parts += ["## Ratios and their targets", *_ratio_tables(results)]
    if results["timing"]:
        parts += ["## Times", *_contender_list(results["timing"]), *_time_tables(results["timing"])]
    if results["growth"]:
        parts += ["## Growth", *_growth_tables(results["growth"])]
    if results["kernels"]:
        parts += ["## Kernels of other bases", *_kernel_tables(results["kernels"])]
    if results["families"]:
        parts += ["## Families at equal parameters", *_family_tables(results["families"])]
    if results["blocks"]:
        parts += ["## Feed-forward blocks at equal parameters", *_block_tables(results["blocks"])]
    if results["memory"]:
        parts += ["## Peak memory of a training step", _memory_table(results["memory"])]
    if results["first_use"]:
        parts += ["## First use", *_first_use_table(results["first_use"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _origins(report: Row) -> Iterable[str]:
    """The commands that were run and where; a line for each run whose parts are on the page."""
    parts = report["parts"]
    assert isinstance(parts, dict)
    runs: dict[tuple[str, str], list[str]] = {}
    for part, run in parts.items():
        versions = ", ".join(f"{key} {value}" for key, value in run["environment"].items())
        runs.setdefault((run["command"], versions), []).append(part)
    for (command, versions), names in runs.items():
        what = "Measured" if len(runs) == 1 else f"Measured ({', '.join(names)})"
        yield f"{what} with `{command}` on: {versions}."


def _summary(results: Results) -> str:
    rows = []
    for record in target_records(results):
        stretch = f"{record['stretch']}: {record['kept_stretch']}" if "stretch" in record else ""
        rows.append(
            (
                record["ratio"],
                record["bound"],
                format_value(record.get("worst")),
                record.get("worst_at", ""),
                f"{record.get('kept', 0)} of {record['observed']}",
                f"**{record['verdict']}**",
                stretch,
            )
        )
    head = ("ratio", "target", "worst", "at", "cases that keep it", "verdict", "stretch: cases")
    return _table(head, rows, numbers=(2,))


def _ratio_tables(results: Results) -> Iterable[str]:
    for target in TARGETS:
        seen = target.observe(results)
        if not seen:
            continue
        bound = f"target {target.sign} {target.bound:g}"
        if target.stretch is not None:
            bound += f", stretch {target.sign} {target.stretch:g}"
        yield f"### {target.title} ({bound})"
        grids = sorted({one.grid_size for one in seen if one.grid_size is not None})
        cells: dict[tuple[str, int, int], dict[int | None, str]] = {}
        for one in seen:
            place = (one.layers, one.batch, one.threads)
            cells.setdefault(place, {})[one.grid_size] = _judged(target, one)
        columns: list[int | None] = [None] if not grids else list(grids)
        yield _table(
            ("layers", "batch", "threads", *(f"G = {g}" if g else "ratio" for g in columns)),
            [
                (layers, f"{batch:,}", threads, *(found.get(g, "–") for g in columns))
                for (layers, batch, threads), found in cells.items()
            ],
            numbers=range(1, 3 + len(columns)),
        )


def _judged(target: Target, one: Observation) -> str:
    label = CONTENDERS[one.note].label if one.note in CONTENDERS else ""
    text = f"{format_value(one.value)} {'met' if target.met(one.value) else 'missed'}"
    return f"{text} ({label})" if label else text


def _contender_list(rows: Sequence[Row]) -> Iterable[str]:
    shown = dict.fromkeys(str(row["contender"]) for row in rows)
    yield "\n".join(f"- **{CONTENDERS[n].label}**: {CONTENDERS[n].what}" for n in shown)
    first = [row for row in rows if row["threads"] == rows[0]["threads"]]
    for layers, group in _grouped(first, lambda row: str(row["layers"])):
        yield f"### Trained parameters, {layers}"
        yield _by_grid(group, lambda row: f"{row['parameters']:,}", "parameters")


def _time_tables(rows: Sequence[Row]) -> Iterable[str]:
    most = max((int(str(row["repeats"])) for row in measured(rows, "repeats")), default=0)

    def cell(row: Row) -> str:
        text = _with_quartiles(row)
        return text if row["repeats"] == most else f"{text}, {row['repeats']} repeats"

    def place(row: Row) -> str:
        threads = _threads(int(str(row["threads"])))
        return f"{row['layers']}, batch {row['batch']:,}, {threads}"

    for title, group in _grouped(rows, place):
        yield f"### Milliseconds a step: {title}"
        yield f"Medians of {most} repeats where no other number stands."
        yield _by_grid(group, cell, "ms")


def _with_quartiles(row: Row) -> str:
    middle, low, high = (format_value(row[key]) for key in ("ms", "ms_low", "ms_high"))
    return f"{middle} ({low}–{high})"


def _by_grid(rows: Sequence[Row], cell: Callable[[Row], str], key: str) -> str:
    """One row a contender, one column a number of intervals."""
    grids = list(dict.fromkeys(int(str(row["grid_size"])) for row in rows))
    cells: dict[str, dict[int, str]] = {}
    for row in rows:
        text = cell(row) if key in row else _reason(row)
        cells.setdefault(str(row["contender"]), {}).setdefault(int(str(row["grid_size"])), text)
    return _table(
        ("contender", *(f"G = {grid}" for grid in grids)),
        [(CONTENDERS[n].label, *(found.get(g, "–") for g in grids)) for n, found in cells.items()],
        numbers=range(1, 1 + len(grids)),
    )


def _growth_tables(rows: Sequence[Row]) -> Iterable[str]:
    head = (
        *("contender", "threads", "layers", "batch", "G", "parameters"),
        *("ms", "times the first"),
    )
    for series, group in _grouped(rows, lambda row: str(row["series"])):
        yield f"### Series in {series}"
        ordered = sorted(group, key=lambda row: (row["threads"], str(row["contender"]) != "ours"))
        yield _table(
            head,
            [
                (
                    CONTENDERS[str(row["contender"])].label,
                    *(row["threads"], row["layers"], f"{row['batch']:,}", row["grid_size"]),
                    f"{row['parameters']:,}" if "parameters" in row else "–",
                    format_value(row["ms"])
                    if "ms" in row
                    else f"not measured: {row.get('reason')}",
                    format_value(row["ratio"]) if "ratio" in row else "1",
                )
                for row in ordered
            ],
            numbers=(1, 3, 4, 5, 6, 7),
        )


def _kernel_tables(rows: Sequence[Row]) -> Iterable[str]:
    yield (
        "Networks of another basis, and MLPs with learned activations between their layers. *Own* "
        "is the network as it is imported, by its kernel where it has one; beside it how many "
        "times as long torch takes. Recomputing, torch keeps the input only, as a kernel does."
    )

    def place(row: Row) -> str:
        return f"{row['layers']}, batch {row['batch']:,}, {_threads(int(str(row['threads'])))}"

    for title, group in _grouped(rows, place):
        yield f"### {title}"
        cells: dict[str, dict[str, str]] = {}
        for row in group:
            kernel, _, path = str(row["contender"]).partition("-")
            key = "ratio" if path else "ms"
            cells.setdefault(kernel, {})[path] = _value_or_reason(row, key)
        yield _table(
            ("network", "own (ms)", "torch, eager", "torch, recomputing", "torch, compiled"),
            [
                (kernel, *(found.get(p, "–") for p in ("", "eager", "recompute", "compiled")))
                for kernel, found in cells.items()
            ],
            numbers=range(1, 5),
        )


def _family_tables(rows: Sequence[Row]) -> Iterable[str]:
    yield (
        "Whole denoisers of plane points, features of the timestep included, of families with "
        "their default settings and as nearly as widths allow the same number of parameters."
    )
    first = FAMILY_CONTENDERS[0]
    yield _table(
        ("denoiser", "parameters", "batch", "threads", "ms (quartiles)", f"{first.label} / it"),
        [
            (
                CONTENDERS[str(row["contender"])].label,
                f"{row['parameters']:,}" if "parameters" in row else "–",
                f"{row['batch']:,}",
                row["threads"],
                _with_quartiles(row) if "ms" in row else _reason(row),
                format_value(row["inverse_ratio"]) if "inverse_ratio" in row else "1",
            )
            for row in sorted(rows, key=lambda row: row["threads"])
        ],
        numbers=range(1, 6),
    )


def _block_tables(rows: Sequence[Row]) -> Iterable[str]:
    yield (
        f"Blocks of a picture transformer, a batch of pictures of {TOKENS} tokens: diffusers' "
        "`FeedForward` and the same by `kanify`."
    )
    yield _table(
        ("block", "widths", "parameters", "batch", "threads", "ms (quartiles)", "it / plain"),
        [
            (
                CONTENDERS[str(row["contender"])].label,
                row["layers"],
                f"{row['parameters']:,}" if "parameters" in row else "–",
                f"{row['batch']:,}",
                row["threads"],
                _with_quartiles(row) if "ms" in row else _reason(row),
                format_value(row["ratio"]) if "ratio" in row else "1",
            )
            for row in sorted(rows, key=lambda row: row["threads"])
        ],
        numbers=range(2, 7),
    )


def _memory_table(rows: Sequence[Row]) -> str:
    first = rows[0]
    return (
        f"Layers {first['layers']}, G = {first['grid_size']}, batch {first['batch']:,}, one "
        "thread: how far the memory in use rises above its level before the step, in a fresh "
        "process each, after one step at a tiny batch.\n\n"
    ) + _table(
        ("contender", "parameters", "peak (MiB)"),
        [
            (
                CONTENDERS[str(row["contender"])].label,
                f"{row['parameters']:,}" if "parameters" in row else "–",
                _value_or_reason(row, "peak_mib"),
            )
            for row in rows
        ],
        numbers=(1, 2),
    )


def _first_use_table(rows: Sequence[Row]) -> Iterable[str]:
    first = rows[0]
    yield (
        f"Seconds of the first forward and backward pass of a fresh process (layers "
        f"{first['layers']}, G = {first['grid_size']}, batch {first['batch']:,}, one thread), with "
        "empty caches of compiled code, as on the day of installation, and with those of the run "
        "before."
    )
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        text = (
            format_value(row["first_s"])
            if "first_s" in row
            else f"not measured: {row.get('reason')}"
        )
        cells.setdefault(str(row["contender"]), {})[str(row["cache"])] = text
    yield _table(
        ("contender", "empty cache (s)", "filled cache (s)"),
        [
            (CONTENDERS[name].label, found.get("empty", "–"), found.get("filled", "–"))
            for name, found in cells.items()
        ],
        numbers=(1, 2),
    )


def _grouped(rows: Iterable[Row], key: Callable[[Row], str]) -> Iterable[tuple[str, list[Row]]]:
    """Groups in the order in which they first come."""
    places = {name: place for place, name in enumerate(dict.fromkeys(map(key, rows)))}
    ordered = sorted(rows, key=lambda row: places[key(row)])
    for name, group in groupby(ordered, key):
        yield name, list(group)


def _place(one: Observation) -> str:
    grid = "" if one.grid_size is None else f", G = {one.grid_size}"
    return f"{one.layers}, batch {one.batch:,}{grid}, {_threads(one.threads)}"


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def format_value(value: object) -> str:
    """A number to three digits, a dash for None."""
    return format_number(None if value is None else float(str(value)))


def _value_or_reason(row: Row, key: str) -> str:
    return format_value(row[key]) if key in row else _reason(row)


def _reason(row: Row) -> str:
    return f"not measured: {row.get('reason')}"


def _table(head: Sequence[object], rows: Iterable[Sequence[object]], numbers: Iterable[int]) -> str:
    right = set(numbers)
    rule = ("---:" if column in right else "---" for column in range(len(head)))
    lines = [head, tuple(rule), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
