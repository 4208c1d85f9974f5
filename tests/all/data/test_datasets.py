"""Oracles that are estimated from the rows of a file, and models that are judged with another."""

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import refused, seeded
from kan_diffusion.data.datasets import (
    FileData,
    TableData,
    fresh_dataset,
    load_dataset,
)
from kan_diffusion.data.scaling import Standardizer
from kan_diffusion.data.tables import write_frame
from kan_diffusion.errors import DataError
from mixed_tables import people
from row_files import csv_of, in_data_units, in_order, rows, training_rows


@pytest.mark.parametrize(("num_rows", "holdout"), [(11, 0.99), (57, 0.2), (400, 0.01), (400, 0.5)])
def test_heldout_rows_are_noised_or_references(tmp_path, monkeypatch, num_rows, holdout):
    monkeypatch.setattr("kan_diffusion.data.datasets.FEWEST_FOR_ORACLE", 5)
    points = rows(num_rows)
    dataset = load_dataset(FileData(path=csv_of(tmp_path, points), holdout=holdout), 0, 0)
    parts = [dataset.train, dataset.heldout, *(dataset.references or ())]
    together = np.concatenate([in_data_units(dataset, part) for part in parts])
    np.testing.assert_allclose(in_order(together), in_order(points), rtol=0, atol=2e-5)
    assert torch.equal(dataset.untrained(), torch.cat(parts[1:]))
    num_heldout = num_rows - len(dataset.train)
    if num_heldout < 5:
        assert (dataset.oracle, len(dataset.heldout)) == ("none", num_heldout)
    else:
        assert (dataset.oracle, len(dataset.heldout)) == ("estimated", num_heldout // 5)
        assert abs(len(parts[2]) - len(parts[3])) <= 1


def test_split_with_an_oracle_depends_on_the_study_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("kan_diffusion.data.datasets.FEWEST_FOR_ORACLE", 30)
    config = FileData(path=csv_of(tmp_path, rows(60)), holdout=0.5)
    dataset, other_trial, other_study = (
        load_dataset(config, study_seed=study, trial_seed=trial)
        for study, trial in ((0, 0), (0, 7), (1, 0))
    )
    assert not dataset.split_by_seed
    assert torch.equal(dataset.train, other_trial.train)
    assert torch.equal(dataset.heldout, other_trial.heldout)
    assert training_rows(dataset) != training_rows(other_study)


def test_tables_have_no_oracle_and_noise_every_heldout_row():
    dataset = load_dataset(TableData(table="iris"), 0, 0)
    assert (dataset.name, dataset.oracle, len(dataset.heldout)) == ("iris", "none", 45)
    first, second = dataset.fresh_pair(5_000, seeded())
    assert len(first) == len(second) == len(dataset.fresh(5_000, seeded())) == 22
    noised = dataset.points_to_noise(4_500, seeded())
    distinct, counts = torch.unique(dataset.heldout, dim=0, return_counts=True)
    found, often = torch.unique(noised, dim=0, return_counts=True)
    assert torch.equal(distinct, found)
    assert torch.equal(often, 100 * counts)  # iris has the same flower twice


def test_a_model_of_points_is_judged_in_its_own_units(tmp_path):
    units = Standardizer((3.0, -20.0), (2.0, 0.1))
    points = rows(40)
    path = csv_of(tmp_path, points)
    other = fresh_dataset(path, ("b", "a"), units, 0)
    assert (other.standardizer, other.codec) == (units, None)
    expected = (points[:, ::-1] - units.mean) / units.scale
    np.testing.assert_allclose(in_order(other.untrained()), in_order(expected))
    table = people(20, 0)
    for columns, names, words in (
        (list(table), list(table), "has 6 columns and the model was trained on 2"),
        (["age", "job"], ["a", "b"], "without a number in column 'b'"),
        (["score", "age"], ["a", "b"], "a number in column 'a'"),
        (["age", "income"], ["age", "income"], "has no column 'b'"),
    ):
        write_frame(path, pd.DataFrame(table[columns]).set_axis(names, axis=1))
        with refused(words, DataError):
            fresh_dataset(path, ("b", "a"), units, 0)
