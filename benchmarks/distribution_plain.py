"""Ray Tune as its documentation shows it: its own OptunaSearch, here over a SQLite store, and no pruning."""

import time
from pathlib import Path
from typing import Any

import optuna
import ray
from distribution_notes import Asked, Measured, Watch, note
from ray import tune
from ray.tune.search.optuna import OptunaSearch


def searched(asked: Asked, *, reuse_actors: bool) -> Measured:
    """Search until that is measured."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with Watch(asked) as watch:
        ray.init(address=asked.cluster, log_to_driver=False, logging_level="ERROR")
        tuner(asked, watch, reuse_actors).fit()
        ray.shutdown()
    return watch.measured()


def tuner(asked: Asked, watch: Watch, reuse_actors: bool) -> tune.Tuner:
    """Return a search as a careful user would set it up, but for `reuse_actors`, which is off by default."""
    trainable = tune.with_parameters(sleeps, seconds=asked.seconds, reports=asked.reports, notes=watch.notes)
    return tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"learning_rate": tune.loguniform(1e-3, 1e-1), "l2_strength": tune.loguniform(1e-4, 1e-1)},
        tune_config=tune.TuneConfig(
            metric="macro_f1",
            mode="max",
            search_alg=OptunaSearch(storage=optuna.storages.RDBStorage(f"sqlite:///{asked.folder / 'optuna.db'}")),
            num_samples=-1,
            # Without it Tune would start one trial after the other.
            max_concurrent_trials=asked.workers,
            reuse_actors=reuse_actors,
        ),
        run_config=tune.RunConfig(storage_path=str(asked.folder), verbose=0, stop=WhenOver(watch)),
    )


def sleeps(config: dict[str, Any], *, seconds: float, reports: int, notes: Path) -> None:
    """Train nothing, and report at times that do not wait for earlier reports to be taken in."""
    note(notes, "began")
    began = time.monotonic()
    for number in range(1, reports + 1):
        time.sleep(max(0.0, began + seconds * number / reports - time.monotonic()))
        if number == reports:
            note(notes, "ended")
        tune.report({"macro_f1": 0.5 + number * config["learning_rate"]})


class WhenOver(tune.Stopper):  # type: ignore[misc]
    """Ends a search that was measured."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __getstate__(self) -> dict[str, Any]:
        """Keep nothing for a search that would be restored."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Return whether it is over."""
        return self._watch.over.is_set()
