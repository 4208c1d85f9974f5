import io
import math

from rich.console import Console
from rich.progress import Progress

from kan_diffusion.cli.progress import StudyProgress, known_floor
from kan_diffusion.progress import TrainingBar, progress_bars
from kan_diffusion.study.executors import TrialEvent
from make import study


def shown(bars):
    """What a terminal shows of bars now."""
    console = Console(file=io.StringIO(), width=200)
    console.print(bars.get_renderable())
    return console.file.getvalue()


def test_a_run_is_compiled_trained_and_judged_and_brackets_are_shown_as_they_are():
    with progress_bars() as bars:
        bar = TrainingBar(bars, "a[b] · [/x]", 100, floor=0.288)
        assert "a[b] · [/x]" in shown(bars)
        for step, loss, said in (
            (0, math.nan, "compiling"),
            (10, 1.0, "training, loss 1.0000, floor 0.2880"),
            (20, 0.0, "training, loss 0.9000, floor 0.2880"),  # a single batch says little
            (100, 0.9, "judging"),
        ):
            bar.move(step, loss)
            assert said in shown(bars)


def test_a_study_is_announced_and_its_trials_are_counted(tmp_path):
    config = study(seeds=4, models=[{"family": "mlp", "params": 600}])
    _, second, third, fourth = trials = config.trials()
    bars = Progress(console=Console(file=io.StringIO(), width=200), auto_refresh=False)
    bars.disable = True  # as anywhere but on a terminal
    (tmp_path / "trials" / fourth.id).mkdir(parents=True)
    (tmp_path / "trials" / fourth.id / "trial.json").touch()  # trained, and judged otherwise
    progress = StudyProgress("tiny", tmp_path, bars)
    progress.start(trials, trials[1:])
    progress.move(TrialEvent("progressed", second.id, step=20, loss=0.5))
    progress.move(TrialEvent("finished", second.id))
    progress.move(TrialEvent("failed", third.id, error="no memory"))
    assert bars.console.file.getvalue().splitlines() == [
        "1 of 4 trials are finished and are not run again; after a change of code give another "
        "--out",
        "2 trials to train",
        "1 trials to judge again",
        "2 of 4 trials: gaussian-mixture · MLP · seed 1",
        "gaussian-mixture · MLP · seed 2: no memory",
    ]


def test_the_floor_is_known_for_toys():
    config = study(data=[{"toy": "correlated-gaussian"}, {"table": "wine"}])
    toy, table = config.data
    process = config.process
    assert 0 < known_floor(toy, process) < 1
    assert known_floor(table, process) is None
