"""Figure registry: functions that draw a study's report data, or return a sentence if there is nothing to draw."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hpo.report.hyperparameter_figures import importances, learning_rate_by_optimizer, parallel_coordinates, slices
from hpo.report.report_data import ReportData
from hpo.report.score_figures import by_group, by_length, confusion_matrix, differences, learning_curves, over_time

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FIGURES: "Mapping[str, Callable[[ReportData], Figure | str]]" = {
    "differences": differences,
    "over_time": over_time,
    "learning_curves": learning_curves,
    "parallel_coordinates": parallel_coordinates,
    "slices": slices,
    "importances": importances,
    "learning_rate_by_optimizer": learning_rate_by_optimizer,
    "confusion_matrix": confusion_matrix,
    "by_group": by_group,
    "by_length": by_length,
}
