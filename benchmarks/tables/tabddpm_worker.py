"""TabDDPM of ``synthcity`` as a program, for an environment that only it can live in.

It reads requests and writes answers, a line of JSON each, and imports nothing of this project:

- ``{"train": path, "target": …, "classes": …, "codes": [...], "seconds": …, "seed": …}`` fits a CSV
  file of numbers and codes for as many epochs as two timed fits say the time has
- ``{"num": …, "seed": …, "out": path}`` writes rows of the same kind

An answer has the ``seconds`` of one core that it took, timing left out, and after a fit how it was
``held`` to them.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from synthcity.plugins.core.plugin import Plugin


def main() -> None:
    """Answers until there is nothing more to read."""
    warnings.filterwarnings("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # synthcity prints
    import pandas as pd
    from synthcity.plugins import Plugins
    from synthcity.plugins.core.dataloader import GenericDataLoader

    plugins = Plugins()

    def fit(request: dict[str, object], epochs: int) -> tuple[Plugin, float]:
        start = time.process_time()
        rows = pd.read_csv(request["train"])
        rows[request["codes"]] = rows[request["codes"]].astype("category")
        model = plugins.get(
            "ddpm",
            n_iter=epochs,
            is_classification=request["classes"],
            random_state=request["seed"],
        )
        model.fit(GenericDataLoader(rows, target_column=request["target"]))
        return model, time.process_time() - start

    model = None
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        if "train" in request:
            # The first fit of all starts more slowly.
            _, few, many = (fit(request, epochs)[1] for epochs in (2, 2, 22))
            epoch = max(many - few, 0.01) / 20
            epochs = max(1, int((request["seconds"] - few) / epoch))
            model, answer["seconds"] = fit(request, epochs)
            answer["held"] = f"{epochs:,} epochs (its default: 1,000)"
        else:
            start = time.process_time()
            made = model.generate(count=request["num"], random_state=request["seed"])
            made.dataframe().astype(float).to_csv(request["out"], index=False)
            answer["seconds"] = time.process_time() - start
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
