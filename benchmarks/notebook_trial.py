"""Runs the notebook's KAN trial at full length, on our layers and on the recursion, side by side.

Both start from the same parameters, see the same batches and are trained by the same loop; only the
evaluation of the splines differs. They take turns of a quarter of a second, so that anything
else that slows the machine slows both; when one has finished, the other runs alone. The script
compares the time of the steps (``TrainingResult.seconds``); the losses show that the trainings
are the same.

    OMP_NUM_THREADS=1 python benchmarks/notebook_trial.py
    OMP_NUM_THREADS=1 python benchmarks/notebook_trial.py --epochs 20
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from baselines.recursion import replace_layers
from kan_diffusion import build_denoiser, read_preset, train
from kan_diffusion.data.datasets import load_dataset
from kan_diffusion.files import write_json
from kan_diffusion.randomness import stream_seed, torch_generator
from kan_diffusion.study.run import environment
from kan_diffusion.training import TrainingResult

MODEL = "KAN 32-32-32"


class Turns:
    """Lets several threads work one at a time, in turn."""

    def __init__(self, names: list[str]) -> None:
        self._waiting = list(names)
        self._change = threading.Condition()

    def begin(self, name: str) -> None:
        """Waits for the turn of ``name``."""
        with self._change:
            self._change.wait_for(lambda: self._waiting[0] == name)

    def pass_on(self, name: str) -> None:
        """Hands the turn to the next thread and waits until ``name`` has it again."""
        with self._change:
            self._waiting.append(self._waiting.pop(0))
            self._change.notify_all()
            self._change.wait_for(lambda: self._waiting[0] == name)

    def leave(self) -> None:
        """Hands the turn to the next thread for good."""
        with self._change:
            self._waiting.pop(0)
            self._change.notify_all()


def run(recursion: bool, epochs: int, on_progress: Callable[[int], None]) -> TrainingResult:
    """Trains the notebook's KAN."""
    study = read_preset("notebook")
    trial = next(trial for trial in study.trials() if trial.model.name == MODEL)
    dataset = load_dataset(trial.data, trial.study_seed, trial.seed)
    denoiser = build_denoiser(
        trial.model.family,
        dataset.dim,
        num_train_timesteps=trial.process.num_timesteps,
        hidden=trial.model.hidden,
        settings=trial.model.settings,
        generator=torch_generator("parameters", trial.study_seed, trial.seed, MODEL),
    )
    if recursion:
        replace_layers(denoiser)
    return train(
        denoiser,
        trial.process,
        dataset.train,
        trial.training.model_copy(update={"steps": 2 * epochs}),  # two batches an epoch
        seed=stream_seed("training", trial.study_seed, trial.seed, trial.data.name),
        device="cpu",
        on_progress=lambda step, _: on_progress(step),
    )


def main() -> None:
    """Runs both and writes the ratio of their times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("results/kan_layer/notebook_trial.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kinds = {"kan-diffusion": False, "recursion": True}
    turns = Turns(list(kinds))
    results: dict[str, TrainingResult] = {}

    with Progress(
        *Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn()
    ) as bar:
        tasks = {name: bar.add_task(name, total=2 * arguments.epochs) for name in kinds}

        def work(name: str) -> None:
            def progress(step: int) -> None:
                bar.update(tasks[name], completed=step)
                turns.pass_on(name)

            turns.begin(name)
            results[name] = run(kinds[name], arguments.epochs, progress)
            turns.leave()

        threads = [threading.Thread(target=work, args=(name,)) for name in kinds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seconds = {name: result.seconds for name, result in results.items()}
    ratio = seconds["recursion"] / seconds["kan-diffusion"]
    tail = max(1, arguments.epochs // 20)
    losses = {name: float(result.losses[-tail:].mean()) for name, result in results.items()}
    content = {
        "model": MODEL,
        "epochs": arguments.epochs,
        "seconds": seconds,
        "recursion / kan-diffusion": ratio,
        "mean loss of the last steps": losses,
        "environment": environment(),
    }
    write_json(arguments.out, content)
    print(f"{arguments.epochs:,} epochs, one thread: {seconds}; ratio {ratio:.2f}; losses {losses}")


if __name__ == "__main__":
    main()
