"""Files of rows that tell where each one went."""

import numpy as np


def rows(num, dim=2):
    """Rows that are all different."""
    means, spreads = [3.0, -20.0, 0.5][:dim], [2.0, 0.1, 9.0][:dim]
    return np.random.default_rng(1).normal(means, spreads, (num, dim))


def csv_of(folder, points, name="points.csv"):
    header = ",".join("abc"[: points.shape[1]])
    np.savetxt(folder / name, points, delimiter=",", header=header, comments="", fmt="%.17g")
    return folder / name


def in_data_units(dataset, points):
    frame = dataset.codec.decode(points, np.random.default_rng(0))
    return frame.to_numpy(dtype=np.float64)


def in_order(points):
    points = np.asarray(points)
    return points[np.lexsort(points.T)]


def training_rows(dataset):
    return set(map(tuple, in_data_units(dataset, dataset.train).round(4)))
