"""Rank correlation of scores, losses and their mean rank at the rungs with the score at the end of a trial.

The trials are those that `ladder.py record` trained to their ends, each evaluated on all of validation at the rungs of
promotion. What correlates best is what trials should be compared by there.

Run: python benchmarks/rung_metric.py FOLDER    # FOLDER is the bank of ladder.py
"""

import argparse
import json
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from scipy.stats import rankdata, spearmanr

from hpo.store.database import Database, open_database
from hpo.store.results import read_results
from hpo.store.studies import opened_study, study_names
from hpo.store.tables import STUDY, evaluations

SHARES = (62, 125, 250, 500)
"""Rungs of promotion, in per mille of a trial."""
MOST_APART = 25
"""Largest distance of an evaluation from the share that it counts for: rungs lie between steps."""


def main() -> None:
    """Print a line for each data set and share, and the means over the data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    url = f"sqlite:///{parser.parse_args().folder / 'bank.db'}"
    with closing(open_database(url, must_exist=True)) as database:
        found = {name: correlations(database, name) for name in study_names(database)}
    for name, by_share in found.items():
        for share, values in by_share.items():
            print(f"{name}, {share} per mille: score {values[0]:.2f}, loss {values[1]:.2f}, both {values[2]:.2f}")
    for share in SHARES:
        score, loss, both = np.mean([by_share[share] for by_share in found.values()], axis=0)
        print(f"mean, {share} per mille: score {score:.2f}, loss {loss:.2f}, both {both:.2f}")


def correlations(database: Database, name: str) -> dict[int, tuple[float, ...]]:
    """Return share -> Spearman's correlation of score, negated loss and their mean rank with the last score."""
    longest = max(one.configuration["epochs"] for one in read_results(database, name).trials)
    ends = {one.number: 1000 * one.configuration["epochs"] / longest for one in read_results(database, name).trials}
    curves: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
    chosen = sa.select(*(evaluations.c[column] for column in ("trial", "rung", "score", "validation_scores"))).where(
        evaluations.c.study_id == STUDY
    )
    with opened_study(database, name) as (_, rows):
        for row in rows.execute(chosen.order_by(evaluations.c.rung)).mappings():
            loss = json.loads(row["validation_scores"])["values"]["loss"]
            curves[row["trial"]].append((1000 * row["rung"] / ends[row["trial"]], row["score"], -loss))
    found = {}
    for share in SHARES:
        nearest = [(min(curve, key=lambda one: abs(one[0] - share)), curve[-1]) for curve in curves.values()]
        there = [(*at[1:], last[1]) for at, last in nearest if abs(at[0] - share) <= MOST_APART]
        scores, losses, final = (rankdata(column) for column in zip(*there, strict=True))
        found[share] = tuple(float(spearmanr(one, final)[0]) for one in (scores, losses, scores + losses))
    return found


if __name__ == "__main__":
    main()
