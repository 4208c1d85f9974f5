from kan_diffusion.study import rehearsal
from kan_diffusion.study.folder import load_trial
from kan_diffusion.study.run import load_study, run_study
from make import EVALUATION, study


def test_each_model_keeps_the_size_that_served_it_best(tmp_path, executor, monkeypatch):
    monkeypatch.setattr(rehearsal, "SIZES", (3, 600, 900))  # nothing has the first
    config = study(
        data=[{"toy": "moons", "num_points": 200}],
        models=[{"family": "kan"}, {"family": "mlp"}],
        budgets=[{"match": "time", "amount": 0.5}],  # far more than the first steps take
        evaluation={**EVALUATION, "num_samples": 0, "num_likelihood": 0, "moments": []},
    ).pinned()
    results = run_study(config, tmp_path, executor=executor)
    tried = [load_trial(path) for path in (tmp_path / "rehearsals" / "trials").iterdir()]
    assert {trial.config.study_seed for trial in tried} == {1_000_000}  # of no reported trial
    assert len(results.trials) == 2
    for reported in results.trials:
        of_model = [t for t in tried if t.config.model.name == reported.config.model.name]
        assert {trial.config.model.params for trial in of_model} == {600, 900}
        best = min(of_model, key=lambda trial: trial.row["excess"])
        assert reported.config.model.params == best.config.model.params
    again = load_study(tmp_path)
    assert [trial.config for trial in again.trials] == [trial.config for trial in results.trials]
