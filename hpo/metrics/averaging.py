"""The scores of several folds as those of one trial."""

from collections.abc import Mapping, Sequence

import numpy as np

from hpo.messages import Scores


def mean_scores(parts: Sequence[Scores]) -> Scores:
    """Return the mean of each score over the parts, each part counted alike; rows and confusions are added up."""
    per_class = {label: _mean([part.per_class[label] for part in parts]) for label in parts[0].per_class}
    for label, row in per_class.items():
        row["support"] = sum(part.per_class[label]["support"] for part in parts)
    confusion = np.sum([part.confusion for part in parts], axis=0)
    return Scores(
        metric=parts[0].metric,
        values=_mean([part.values for part in parts]),
        rows=sum(part.rows for part in parts),
        per_class=per_class,
        confusion=tuple(map(tuple, confusion.tolist())),
    )


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
