"""The 45 embedding rows of the facts: do they know their products, and how do they lie?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from tokenization.mul_facts import FACT_IDS, FACTS

WEIGHTS = "model.safetensors"
_NAMES = ("transformer.wte.weight", "wte.weight")


@dataclass(frozen=True)
class ProductProbe:
    """How well a linear map reads the product out of rows it has not seen.

    r_squared: of each model. p_value: of their mean, against the same rows with the products dealt out anew.
    null_high: what 95 % of the means of such deals stay below.
    """

    r_squared: list[float]
    mean: float
    p_value: float
    null_high: float


def read_fact_rows(checkpoint: Path) -> np.ndarray | None:
    """Return the embeddings of the 45 facts as (45, width) float64, None where there are no weights to read."""
    file = checkpoint / WEIGHTS
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="numpy") as weights:
            name = next((name for name in _NAMES if name in weights.keys()), None)  # noqa: SIM118 - it is no mapping
            if name is None:
                return None
            return weights.get_slice(name)[FACT_IDS.start : FACT_IDS.stop].astype(np.float64)
    except (SafetensorError, TypeError) as error:  # NumPy has no bfloat16
        raise ValueError(f"{file} cannot be read: {error}; pretraining keeps its weights in 32 bits") from error


def probe_products(rows_of_models: Sequence[np.ndarray], permutations: int = 2000, seed: int = 0) -> ProductProbe:
    """Read the logarithm of the product from the rows by ridge regression, each fact predicted from the other 44.

    The penalty is the mean eigenvalue of the rows' Gram matrix, chosen without looking at the products. R squared is
    taken against the mean of the other 44, so guessing gives 0 or less.
    """
    target = np.log([fact.product for fact in FACTS])
    drawn = np.random.default_rng(seed)
    targets = np.stack([target, *(drawn.permutation(target) for _ in range(permutations))], axis=1)  # (45, 1 + P)
    scores = np.array([_left_out_r_squared(rows, targets) for rows in rows_of_models])  # (models, 1 + P)
    means = scores.mean(0)
    return ProductProbe(
        r_squared=scores[:, 0].tolist(),
        mean=float(means[0]),
        p_value=float((1 + (means[1:] >= means[0]).sum()) / (1 + permutations)),
        null_high=float(np.quantile(means[1:], 0.95)),
    )


def shared_map(rows_of_models: Sequence[np.ndarray]) -> tuple[np.ndarray, list[float]]:
    """Return two principal coordinates of the facts, (45, 2), over all models at once, and their shares of variance.

    Models are trained apart, so their axes mean nothing to each other, but distances do: the Gram matrices of the
    centred rows, each scaled to trace 1, are averaged. Signs are chosen so that the coordinates rise with the product.
    """
    gram = np.mean([_gram(rows) for rows in rows_of_models], axis=0)
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][:2], vectors[:, ::-1][:, :2]
    signs = np.sign(np.log([fact.product for fact in FACTS]) @ vectors)
    coordinates = vectors * np.where(signs == 0, 1, signs) * np.sqrt(np.maximum(values, 0))
    return coordinates, (values / np.trace(gram)).tolist()


def _gram(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(0)
    gram = centred @ centred.T
    trace = np.trace(gram)
    return gram / trace if trace > 0 else gram


def _left_out_r_squared(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return R squared of each column of targets, each row predicted without it (the PRESS formula)."""
    count = len(rows)
    gram = _gram(rows) * count  # mean eigenvalue 1, so the penalty is 1
    smoother = np.full((count, count), 1 / count) + gram @ np.linalg.inv(gram + np.eye(count))
    errors = (targets - smoother @ targets) / (1 - np.diag(smoother))[:, None]
    around_others = (targets - targets.mean(0)) * count / (count - 1)
    return 1 - (errors**2).sum(0) / (around_others**2).sum(0)


def marker_colour(product: int) -> float:
    """Return where a product lies between 1 and 81 on a logarithmic scale, from 0 to 1."""
    return math.log(product) / math.log(81)
