"""Rank correlation of what trials can be compared by at the rungs of promotion with the score at the end of a trial.

That is the score there, and the score extrapolated to the end of the trial: by a straight line over the logarithm of
the share, through the last two rungs, and by a power law, a - b * share^-c, fitted to all rungs so far. In the bank of
`ladder.py`, whose trials were evaluated on all of validation, it is also smoother metrics than F1, by themselves and as
the mean rank of score and metric: the loss, and two that need no threshold, ROC AUC and average precision.
FILE is a table of learning curves as in `curves.py`; of its trials, those count that were trained to their ends.

Run: python benchmarks/rung_metric.py [FOLDER] [--curves FILE...]    # FOLDER is the bank of ladder.py
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

import numpy as np
import sqlalchemy as sa
from curve_tables import read_table
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

from hpo.store.database import Database, open_database
from hpo.store.results import read_results
from hpo.store.studies import opened_study, study_names
from hpo.store.tables import STUDY, evaluations

Floats = NDArray[np.float64]
SHARES = (62, 125, 250, 500)
"""Rungs of promotion, in per mille of a trial."""
SMOOTH = ("loss", "roc_auc", "average_precision")
"""Metrics of a bank's evaluations that change with every prediction, where F1 changes with those across a threshold."""
MOST_APART = 25
"""Largest distance of an evaluation from the share that it counts for: rungs lie between steps."""
EXPONENTS = np.linspace(0.1, 2.0, 20)
"""Values of c in the power law."""


def main() -> None:
    """Print the correlations of each data set and table, and their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--curves", nargs="*", type=Path, default=[], metavar="FILE")
    options = parser.parse_args()
    if options.folder:
        with closing(open_database(f"sqlite:///{options.folder / 'bank.db'}", must_exist=True)) as database:
            described({name: correlations(*recorded(database, name)) for name in study_names(database)})
    if options.curves:
        described({path.name.split(".")[0]: correlations(published(path)) for path in options.curves})


def described(found: Mapping[str, Mapping[int, Mapping[str, float]]]) -> None:
    """Print a line for each data set and share, and the means over the data sets."""
    means = {
        share: {kind: float(np.mean([one[share][kind] for one in found.values()])) for kind in kinds}
        for share, kinds in next(iter(found.values())).items()
    }
    for name, by_share in {**found, "mean": means}.items():
        for share, values in by_share.items():
            print(f"{name}, {share} per mille: " + ", ".join(f"{kind} {one:.2f}" for kind, one in values.items()))


def published(path: Path) -> Floats:
    """Return the scores of a table's trials at `SHARES` and at their ends, shape (trials, shares + 1)."""
    shares = [*(share / 1000 for share in SHARES), 1.0]
    ended = [row for row in read_table(path).rows if row.shares[-1] >= 1 - 1e-9 and not row.diverged]
    return np.array([np.interp(shares, row.shares, row.searched) for row in ended])


def recorded(database: Database, name: str) -> tuple[Floats, dict[str, Floats]]:
    """Return the scores of a bank's trials, like `published`, and those by `SMOOTH`; NaN where none is near a share.

    Losses are negated.
    """
    trials = read_results(database, name).trials
    longest = max(one.configuration["epochs"] for one in trials)
    ends = {one.number: 1000 * one.configuration["epochs"] / longest for one in trials}
    curves: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    chosen = sa.select(*(evaluations.c[column] for column in ("trial", "rung", "score", "validation_scores"))).where(
        evaluations.c.study_id == STUDY
    )
    with opened_study(database, name) as (_, rows):
        for row in rows.execute(chosen.order_by(evaluations.c.rung)).mappings():
            values = json.loads(row["validation_scores"])["values"]
            smooth = (values[metric] * (-1 if metric == "loss" else 1) for metric in SMOOTH)
            curves[row["trial"]].append((1000 * row["rung"] / ends[row["trial"]], row["score"], *smooth))
    found = np.full((1 + len(SMOOTH), len(curves), len(SHARES) + 1), np.nan)
    for number, curve in enumerate(curves.values()):
        found[:, number, -1] = curve[-1][1:]
        for place, share in enumerate(SHARES):
            nearest = min(curve, key=lambda one: abs(one[0] - share))
            if abs(nearest[0] - share) <= MOST_APART:
                found[:, number, place] = nearest[1:]
    return found[0], dict(zip(SMOOTH, found[1:], strict=True))


def correlations(scores: Floats, smooth: Mapping[str, Floats] = MappingProxyType({})) -> dict[int, dict[str, float]]:
    """Return share -> kind -> Spearman's correlation with the last score.

    Args:
        scores: at `SHARES` and at the end of each trial.
        smooth: metric -> the same by that metric.
    """
    found = {}
    for place, share in enumerate(SHARES):
        there = ~np.isnan(scores[:, place])
        known, final = scores[there, : place + 1], scores[there, -1]
        kinds = {"score": known[:, -1]}
        for metric, values in smooth.items():
            one = values[there, place]
            kinds |= {metric: one, f"score and {metric}": rankdata(known[:, -1]) + rankdata(one)}
        kinds |= {"line": extrapolated(known, line), "power law": extrapolated(known, power_law)}
        found[share] = {kind: float(spearmanr(one, final)[0]) for kind, one in kinds.items()}
    return found


def extrapolated(scores: Floats, by: Callable[[Floats, Floats], float]) -> Floats:
    """Return the score of each trial at its end, extrapolated from those at the first of `SHARES`."""
    shares = np.array(SHARES[: scores.shape[1]]) / 1000
    known = ~np.isnan(scores)
    return np.array([by(shares[there], trial[there]) for trial, there in zip(scores, known, strict=True)])


def line(shares: Floats, scores: Floats) -> float:
    """Return the score at the end by a line over the logarithm of the share; of one score, that one."""
    if len(scores) == 1:
        return float(scores[-1])
    slope = (scores[-1] - scores[-2]) / np.log(shares[-1] / shares[-2])
    return float(scores[-1] - slope * np.log(shares[-1]))


def power_law(shares: Floats, scores: Floats) -> float:
    """Return the score at the end by the power law of the least squared error; by `line` with fewer than three."""
    if len(scores) <= 2:
        return line(shares, scores)
    fits = []
    for exponent in EXPONENTS:
        terms = np.stack([np.ones_like(shares), -(shares**-exponent)], axis=1)
        weights = np.linalg.lstsq(terms, scores)[0]
        fits.append((float(((terms @ weights - scores) ** 2).sum()), float(weights[0] - weights[1])))
    return min(fits)[1]


if __name__ == "__main__":
    main()
