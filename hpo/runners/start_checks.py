"""Start checks: the mistakes of a study that are known before its data is read, gathered so that one error has all.

To add one: a function that raises an `HpoError`, and its line in `CHECKS`, or in `ON_THIS_MACHINE` if only the machine
on which trials train can tell.
"""

from collections.abc import Callable
from contextlib import closing
from datetime import datetime

from hpo.config.study_file import StudyConfig
from hpo.config.times import LOCAL_ZONE
from hpo.data.readers.locations import refuse_missing
from hpo.errors import ConfigurationError, Mistakes, SpaceError, StoreError
from hpo.metrics.registry import refuse_unknown_metric
from hpo.model.model_files import refuse_incomplete
from hpo.search.budget import limits_of
from hpo.search.preflight import refuse_unfit_search, space_of_study
from hpo.search.warm_start import read_earlier
from hpo.store.database import open_database
from hpo.store.studies import study_names

Check = Callable[[StudyConfig], object]


def refuse_at_start(config: StudyConfig) -> None:
    """Raise one `HpoError` with all mistakes that `gather_mistakes` finds, if there are any."""
    mistakes = Mistakes()
    gather_mistakes(config, mistakes)
    mistakes.refuse()


def gather_mistakes(config: StudyConfig, mistakes: Mistakes) -> None:
    """Add the mistakes of a study to those found so far; a space in which some were found is not read again."""
    checks = list(CHECKS)
    if config.compute.runner != "ray_tune":
        checks += ON_THIS_MACHINE
    if not mistakes.hold(SpaceError):
        checks.append(_refuse_unfit_space)
    for check in checks:
        with mistakes.gathered():
            check(config)


def _refuse_missing_sources(config: StudyConfig) -> None:
    mistakes = Mistakes()
    for source in (config.data.train, config.data.validation, config.data.test):
        with mistakes.gathered():
            if source is not None:
                refuse_missing(source)
    mistakes.refuse()


def _refuse_unfit_space(config: StudyConfig) -> None:
    refuse_unfit_search(config, space_of_study(config))


def _refuse_past_end(config: StudyConfig) -> None:
    limits_of(config.budget, datetime.now(LOCAL_ZONE))


def _refuse_several_inline(config: StudyConfig) -> None:
    compute = config.compute
    processes = compute.ranks_of_trial * (compute.requested_workers or 1)
    if compute.runner == "inline" and processes > 1:
        raise ConfigurationError(
            f"compute.runner is inline, which trains in one process, but {processes} are requested by compute.workers, "
            "ranks or gpus_per_trial; choose processes or ray_tune."
        )


def _refuse_unusable_cluster(config: StudyConfig) -> None:
    if config.compute.runner == "ray_tune":
        # Imported here because it imports the workers, which takes seconds.
        from hpo.runners.ray.setup import refuse_unusable

        refuse_unusable(config.compute)


def _refuse_unknown_earlier(config: StudyConfig) -> None:
    """Refuse a warm start from studies that cannot be read, unless the study has begun: it then has their trials."""
    if config.warm_start and not _has_begun(config):
        read_earlier(config, known=())


def _has_begun(config: StudyConfig) -> bool:
    try:
        with closing(open_database(config.store.url, must_exist=True)) as database:
            return config.study in study_names(database)
    except StoreError:
        return False


def _refuse_missing_device(config: StudyConfig) -> None:
    if config.compute.device == "cuda":
        from hpo.training.device import choose_device

        choose_device(config.compute)


CHECKS: tuple[Check, ...] = (
    _refuse_missing_sources,
    _refuse_past_end,
    _refuse_several_inline,
    _refuse_unusable_cluster,
    _refuse_unknown_earlier,
)
ON_THIS_MACHINE: tuple[Check, ...] = (
    lambda config: refuse_incomplete(config.model),
    lambda config: refuse_unknown_metric(config.task.name, config.task.metric),
    _refuse_missing_device,
)
