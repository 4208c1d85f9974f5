"""Times KAN layers and denoisers beside what they replace.

    python benchmarks/layers.py                       # everything, about ten minutes
    python benchmarks/layers.py --parts denoisers     # layers, denoisers, blocks or memory
    python benchmarks/layers.py --quick               # a smoke test
    python benchmarks/layers.py --device cuda         # all of it on a GPU
    python benchmarks/layers.py --against CHECKOUT    # this checkout's times over another's

A step is forward pass, backward pass and Adam (fused). Contenders of a case take turns in one
process: in each repeat every one runs as many steps as take a fifth of a second, and each
repeat begins with another one. The tables have medians of the ratios within a repeat, in which
drifts of the machine's speed cancel. ``KAN_KERNELS=0`` turns our CPU kernels off, which leaves the
path that a GPU takes. With ``--against`` processes of the two checkouts alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu
from torch.utils.benchmark import Timer

from kan_diffusion.files import write_json, write_text
from kan_diffusion.study.run import environment
from markdown_table import markdown_table

PARTS = ("layers", "denoisers", "blocks", "memory")
WIDTH, TOKENS, GROUPS = 64, 64, 8
SECONDS = 0.2
"""How long a contender's steps of one repeat take."""


@dataclass(frozen=True)
class Case:
    """What is timed together.

    Attributes:
        part: One of ``PARTS``.
        batch: Rows of a step; pictures of ``TOKENS`` tokens for blocks.
        contenders: Names; times are divided by those of the first.
        params: Parameters of denoisers.
        threads: Threads of torch.
        kernels: Whether our CPU kernels are used.
        compiled: Whether ``torch.compile`` is.
    """

    part: str
    batch: int
    contenders: tuple[str, ...]
    params: int = 0
    threads: int = 1
    kernels: bool = True
    compiled: bool = False

    @property
    def label(self) -> tuple[str, ...]:
        """Its cells in a table."""
        how = "kernels" if self.kernels else "torch"
        size = f"{self.params:,}" if self.params else "-"
        return size, f"{self.batch:,}", str(self.threads), how + " compiled" * self.compiled


def cases(parts: Sequence[str], threads: Sequence[int], on_cpu: bool) -> Iterator[Case]:
    """The cases of some parts: on a CPU with kernels, and on one thread also without them."""
    by_torch = (False, False), (False, True)
    for count in threads:
        paths = by_torch if not on_cpu else ((True, False), *by_torch[: 2 * (count == 1)])
        for kernels, compiled in paths:
            how = {"threads": count, "kernels": kernels, "compiled": compiled}
            for batch in (1024, 8192):
                if "layers" in parts:
                    yield Case("layers", batch, tuple(LAYERS), **how)
                for params in (2_300, 22_000) if "denoisers" in parts else ():
                    yield Case("denoisers", batch, DENOISERS, params, **how)
            if "blocks" in parts:
                yield Case("blocks", 64, BLOCKS, **how)
    for kernels in (True, False) if on_cpu else (False,):
        for params in (2_300, 22_000) if "memory" in parts else ():
            yield Case("memory", 65_536, DENOISERS, params, kernels=kernels)


# --- contenders ---------------------------------------------------------------------------------


class Dense(nn.Module):
    """Every function of every input, multiplied in one GEMM, as efficient-KAN does."""

    def __init__(self, basis: str) -> None:
        from kan_diffusion.kan import KANLinear

        super().__init__()
        self.layer = KANLinear(WIDTH, WIDTH, basis=basis, grid_size=8)

    def forward(self, x: Tensor) -> Tensor:
        """Maps rows of inputs to rows of outputs."""
        features = torch.cat([silu(x).unsqueeze(-1), self.layer.basis(x)], dim=-1)
        return linear(features.flatten(1), self.layer.weight, self.layer.bias)


class Rational(nn.Module):
    """A linear map of group-wise rational functions (Yang and Wang 2024, arXiv:2409.10594)."""

    def __init__(self) -> None:
        super().__init__()
        self.above = nn.Parameter(0.1 * torch.randn(GROUPS, 6))
        self.below = nn.Parameter(0.1 * torch.randn(GROUPS, 4))
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Maps rows of inputs to rows of outputs."""
        each = x.unflatten(1, (GROUPS, -1))
        above, below = torch.zeros_like(each), torch.zeros_like(each)
        for numbers in self.above.flip(1).unbind(1):
            above = above * each + numbers[:, None]
        for numbers in self.below.flip(1).unbind(1):
            below = (below + numbers[:, None]) * each
        return self.linear((above / (1 + below.abs())).flatten(1))


class Denoises(nn.Module):
    """A denoiser as a function of points, at timesteps that are drawn once."""

    def __init__(self, family: str, params: int) -> None:
        from kan_diffusion import build_denoiser

        super().__init__()
        self.denoiser = build_denoiser(family, 2, num_train_timesteps=1000, params=params)

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        """Predicts for points."""
        found: Tensor = self.denoiser(x, steps, return_dict=False)[0]
        return found


class FeedForward(nn.Sequential):
    """A block of a transformer, plain or kanified."""

    def __init__(self, kind: str) -> None:
        from kan_diffusion import kanify

        super().__init__(nn.Linear(128, 512), nn.GELU(), nn.Linear(512, 128))
        if kind != "plain":
            kanify(self, kind=kind)


def _activated() -> nn.Module:
    from kan_diffusion.kan import LearnedFunctions

    return nn.Sequential(LearnedFunctions(WIDTH, groups=GROUPS), nn.Linear(WIDTH, WIDTH))


def _layer(**settings: object) -> nn.Module:
    from kan_diffusion.kan import KANLinear

    made: nn.Module = KANLinear(WIDTH, WIDTH, grid_size=8, **settings)  # type: ignore[arg-type]
    return made


def _shared() -> nn.Module:
    from kan_diffusion.kan import SharedKANLinear

    return SharedKANLinear(WIDTH, WIDTH, functions=4, groups=GROUPS, grid_size=8)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "GELU": lambda: nn.Sequential(nn.GELU(), nn.Linear(WIDTH, WIDTH)),
    "learned activation": _activated,
    "KANLinear": _layer,
    "shared functions": _shared,
    "dense GEMM": lambda: Dense("bspline"),
    "RBF": lambda: _layer(basis="rbf"),
    "rational": Rational,
}
"""Layers of 64 inputs and outputs."""
DENOISERS = ("gated-mlp", "kan", "mlp", "full-kan")
BLOCKS = ("plain", "grouped", "full")


def stepper(case: Case, name: str, device: str) -> Callable[[], None]:
    """Builds a contender and returns its training step."""
    torch.manual_seed(0)
    shape: tuple[int, ...] = (case.batch, WIDTH)
    if case.part == "layers":
        module = LAYERS[name]()
    elif case.part == "blocks":
        module, shape = FeedForward(name), (case.batch, TOKENS, 128)
    else:
        module, shape = Denoises(name, case.params), (case.batch, 2)
    module.to(device)
    inputs = [torch.randn(shape, device=device)]
    if isinstance(module, Denoises):
        inputs.append(torch.randint(1000, (case.batch,), device=device))
    call = torch.compile(module, fullgraph=True) if case.compiled else module
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        call(*inputs).square().mean().backward()
        optimizer.step()

    return step


# --- in a process of its own ----------------------------------------------------------------------


def time_steps(case: Case, device: str, repeats: int) -> dict[str, list[float]]:
    """Times the contenders' steps in turns: seconds of a step, for each repeat."""
    timers, numbers = {}, {}
    for name in case.contenders:
        step = stepper(case, name, device)
        for _ in range(3):
            step()
        timers[name] = Timer("step()", globals={"step": step}, num_threads=case.threads)
        took = timers[name].timeit(1).mean
        numbers[name] = max(1, int(SECONDS / took))
    names, times = list(timers), {name: [] for name in timers}
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(timers[name].timeit(numbers[name]).mean)
    return times


def measure_memory(case: Case, device: str) -> float:
    """Measures by how many MiB a step of the one contender of a case raises the peak."""
    torch.set_num_threads(case.threads)
    stepper(replace(case, batch=16), *case.contenders, device)()  # code and caches
    if device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        stepper(case, *case.contenders, device)()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stepper(case, *case.contenders, device)()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def in_process(
    case: Case, device: str, repeats: int, source: Path | None = None
) -> dict[str, list[float]]:
    """Measures a case in a fresh process, of another checkout if that is given."""
    if case.part == "memory":
        each = {name: replace(case, contenders=(name,)) for name in case.contenders}
        return {name: _process(one, device, 1, source)[name] for name, one in each.items()}
    return _process(case, device, repeats, source)


def _process(case: Case, device: str, repeats: int, source: Path | None) -> dict[str, list[float]]:
    variables = {**os.environ, "KAN_KERNELS": str(int(case.kernels))}
    if source is not None:
        variables["PYTHONPATH"] = str(source.resolve() / "src")
    given = json.dumps([asdict(case), device, repeats])
    words = [sys.executable, __file__, "--case", given]
    done = subprocess.run(words, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    times: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return times


def run_case(given: str) -> None:
    """Measures a case that another process describes, and prints the times."""
    settings, device, repeats = json.loads(given)
    case = Case(**{**settings, "contenders": tuple(settings["contenders"])})
    if case.part == "memory":
        print(json.dumps({case.contenders[0]: [measure_memory(case, device)]}))
    else:
        print(json.dumps(time_steps(case, device, repeats)))


# --- results --------------------------------------------------------------------------------------


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """Returns each contender's median ratio to the first within a repeat."""
    base = next(iter(times.values()))
    return {
        name: median(one / other for one, other in zip(own, base, strict=True))
        for name, own in times.items()
    }


def results_tables(results: Sequence[tuple[Case, dict[str, list[float]]]]) -> str:
    """Writes a table for each part; the first contender's own figure stands beside its name."""
    text = ""
    for part in dict.fromkeys(case.part for case, _ in results):
        own = [(case, times) for case, times in results if case.part == part]
        first, *others = own[0][0].contenders
        unit, scale = ("MiB", 1.0) if part == "memory" else ("ms", 1e3)
        rows = []
        for case, times in own:
            found = ratios(times)
            figures = [f"{scale * median(times[first]):.3g}"]
            figures += [f"{found[name]:.2f}" for name in others]
            rows.append([*case.label, *figures])
        heads = ["parameters", "batch", "threads", "by", f"{first}, {unit}", *others]
        text += f"\n## {part.capitalize()}\n\n{markdown_table(heads, rows)}"
    return text


def compare(case: Case, device: str, repeats: int, other: Path) -> dict[str, float]:
    """Returns the times of a checkout over another's, by processes that take turns."""
    sides: dict[str, list[list[float]]] = {name: [[], []] for name in case.contenders}
    for turn in range(2 * repeats):
        side = (turn + turn // 2) % 2
        found = in_process(case, device, 5, other if side else None)
        for name, times in found.items():
            sides[name][side].append(median(times))
    return {name: median(ours) / median(theirs) for name, (ours, theirs) in sides.items()}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one repeat; the numbers mean nothing")
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--out", type=Path, default=Path("results/layers"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        run_case(given.case)
        return
    on_cpu = given.device == "cpu"
    repeats = 1 if given.quick else given.repeats
    chosen = list(cases(given.parts, given.threads if on_cpu else [1], on_cpu))
    if given.against is not None:
        own = [case for case in chosen if case.kernels and case.part in ("layers", "denoisers")]
        for case in own:
            one = replace(case, contenders=("KANLinear",)) if case.part == "layers" else case
            found = compare(one, given.device, repeats, given.against)
            print(*one.label, *(f"{name} {ratio:.3f}" for name, ratio in found.items()), sep="  ")
        return
    results = []
    for number, case in enumerate(chosen, start=1):
        print(f"{number} of {len(chosen)}: {case.part}", *case.label, file=sys.stderr)
        results.append((case, in_process(case, given.device, repeats)))
    machine = environment()
    if not on_cpu:
        machine["card"] = torch.cuda.get_device_name()
    page = (
        f"# KAN layers on {machine.get('card', 'the CPU')}\n\n`{' '.join(['python', *sys.argv])}`; "
        f"{', '.join(f'{key} {value}' for key, value in machine.items())}.\n"
        f"{results_tables(results)}"
    )
    print(page)
    stem = machine.get("card", "cpu").lower().replace(" ", "-")
    if not given.quick:
        write_text(given.out / f"{stem}.md", page)
        rows = [{**asdict(case), "seconds or MiB": times} for case, times in results]
        write_json(given.out / f"{stem}.json", {"environment": machine, "cases": rows})


if __name__ == "__main__":
    main()
