r"""How well XGBoost tells synthetic rows from real ones, as papers on tables report it.

The real and the synthetic rows are split into three folds, each class evenly. XGBoost with its
defaults learns on two of them to tell the classes apart; with its AUC :math:`A_k` on fold k,

.. math:: \mathrm{score} = 1 - \frac 13 \sum_k \big(2 \max(A_k, 1/2) - 1\big),

1 if rows cannot be told apart and 0 if they always can. That is SDMetrics' score of a logistic
regression with another classifier, the C2ST (XGB) of Scassola et al. 2026 (arXiv:2603.23016), whose
real rows are those trained on, and as many synthetic ones. Categories are one-hot; a gap among
numbers takes their mean and among categories is one more of them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kan_diffusion.randomness import stream_seed
from tables.plain import loose

_FOLDS = 3


def detection_score(real: pd.DataFrame, synthetic: pd.DataFrame, seed: int) -> float:
    """Scores synthetic rows by how hard they are to tell from real ones.

    Args:
        real: Real rows.
        synthetic: Synthetic rows with the same columns.
        seed: Seed of the folds.

    Returns:
        0 (always told apart) to 1 (cannot be told apart).
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold
    from xgboost import XGBClassifier

    rows = _coded(pd.concat([loose(real), loose(synthetic)], ignore_index=True))
    is_real = np.repeat([1, 0], [len(real), len(synthetic)])
    random_state = stream_seed("detection", seed) % 2**32
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=random_state)
    told = []
    for known, asked in folds.split(rows, is_real):
        model = XGBClassifier(random_state=0, n_jobs=1).fit(rows[known], is_real[known])
        auc = roc_auc_score(is_real[asked], model.predict_proba(rows[asked])[:, 1])
        told.append(2 * max(auc, 0.5) - 1)
    return 1 - float(np.mean(told))


def _coded(frame: pd.DataFrame) -> NDArray[np.float32]:
    """Codes rows (n, columns of numbers and of words) as numbers, categories one-hot."""
    numbers = frame.select_dtypes("number")
    words = frame.drop(columns=numbers.columns)
    parts = [numbers.fillna(numbers.mean())]
    if len(words.columns):
        parts.append(pd.get_dummies(words, dummy_na=True))
    return pd.concat(parts, axis=1).to_numpy(np.float32)
