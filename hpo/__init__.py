"""Hyperparameter search for fine-tuning language models.

The public names below are imported at their first use: `import hpo` imports neither torch nor ray nor optuna.

    load_config         read a study file
    run                 search, or resume a search, and confirm its best
    load_study          read a study from a store, as pandas frames and figures
    FineTuneObjective   the objective for a bare `optuna.Study.optimize`
    SearchSpace         the search space of a study
    HpoError            base of all errors that are printed as a sentence instead of a traceback
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpo.config.loading import load_config as load_config
    from hpo.config.study_file import StudyConfig as StudyConfig
    from hpo.errors import HpoError as HpoError
    from hpo.objective import FineTuneObjective as FineTuneObjective
    from hpo.report.notebook import load_study as load_study
    from hpo.runners.run import run as run
    from hpo.space.search_space import SearchSpace as SearchSpace

_DEFINED_IN = {
    "FineTuneObjective": "hpo.objective",
    "HpoError": "hpo.errors",
    "SearchSpace": "hpo.space.search_space",
    "StudyConfig": "hpo.config.study_file",
    "load_config": "hpo.config.loading",
    "load_study": "hpo.report.notebook",
    "run": "hpo.runners.run",
}
__all__ = list(_DEFINED_IN)


def __getattr__(name: str) -> object:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module 'hpo' has no attribute {name!r}")
    return getattr(import_module(_DEFINED_IN[name]), name)


def __dir__() -> list[str]:
    return sorted(_DEFINED_IN)
