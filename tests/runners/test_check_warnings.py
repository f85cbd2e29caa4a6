"""Every doubt speaks where something is wrong and is silent where not; what a forecast says, by hand."""

import math
from typing import Any

import pytest

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.tasks import TaskConfig
from hpo.data.sources import Examples
from hpo.data.splits import Splits, split_examples
from hpo.messages import Probe
from hpo.metrics.classification import resolve_metric
from hpo.runners.check import warnings
from hpo.runners.check.search_forecast import Forecast, Probed, final_evaluation_seconds

GIB = 2**30
FULL, HEAD = Hyperparameters(epochs=6), Hyperparameters(method="head", epochs=2)


def probe(**values: Any) -> Probe:
    usual: dict[str, Any] = {
        "feasible": True, "micro_batch_size": None, "seconds_per_step": 0.5,
        "seconds_per_scored_row": 0.01, "peak_memory_bytes": 3 * GIB, "checkpoint_bytes": 2 * GIB,
        "weights_bytes": GIB, "first_loss": math.log(2),
    }  # fmt: skip
    return Probe(**usual | values)


def probed(hyperparameters: Hyperparameters, steps: int, **values: Any) -> Probed:
    return Probed(hyperparameters=hyperparameters, probe=probe(**values), steps=steps, seconds=10 + steps / 2)


def forecast(**values: Any) -> Forecast:
    """A trial takes 60 s at the cheap end, and 260 s at the dear one."""
    extremes = {"dearest": probed(FULL, 500), "cheapest": probed(HEAD, 100, checkpoint_bytes=5)}
    usual: dict[str, Any] = {
        "extremes": extremes, "workers": 2, "trials": 40, "seconds_left": 3600.0, "device_seconds": None,
        "kept_weights": 3,
    }  # fmt: skip
    return Forecast(**usual | values)


def splits(sport: int, money: int) -> Splits:
    """Splits of distinct texts, with so many of each class in validation."""
    labels = ("sport",) * 20 + ("money",) * 20
    validation = ("sport",) * sport + ("money",) * money
    return split_examples(
        Examples(texts=tuple(f"text {n}" for n in range(40)), labels=labels),
        validation=Examples(texts=tuple(f"other {n}" for n in range(sport + money)), labels=validation),
        seed=0,
    )


# The forecast


def test_trials_take_as_long_as_those_at_the_extremes() -> None:
    assert forecast().trial_seconds == (60.0, 260.0)


def test_each_worker_ends_its_trials_within_the_time() -> None:
    assert forecast().fitting == (2 * 60, 2 * 13)
    assert forecast(seconds_left=100.0).fitting == (2, 0)
    assert forecast(seconds_left=None).fitting is None


def test_device_time_is_shared_by_the_workers() -> None:
    assert forecast(seconds_left=None, device_seconds=600.0).fitting == (10, 2)
    assert forecast(device_seconds=600.0).fitting == (10, 2)


def test_all_trials_take_as_many_rounds_as_workers_need() -> None:
    assert forecast(trials=5).search_seconds == (3 * 60.0, 3 * 260.0)
    assert forecast(trials=None).search_seconds is None


def test_the_disk_holds_two_checkpoints_a_worker_and_weights_kept_and_in_writing() -> None:
    assert forecast().disk_bytes == (2 * 2 * 2 + (2 + 3) * 1) * GIB


def test_what_does_not_fit_tells_nothing() -> None:
    unfit = probed(FULL, 500, feasible=False, peak_memory_bytes=0)
    some = forecast(extremes={"dearest": unfit, "cheapest": probed(HEAD, 100)})
    assert some.trial_seconds == (60.0, 60.0)
    none = forecast(extremes={"dearest": unfit, "cheapest": unfit})
    assert (none.trial_seconds, none.fitting, none.search_seconds, none.disk_bytes) == (None, None, None, 0)


def test_reading_the_test_split_is_given_twice_its_time_and_a_second() -> None:
    assert final_evaluation_seconds([probe(), probe(seconds_per_scored_row=0.02)], 100) == pytest.approx(5.0)
    assert final_evaluation_seconds([probe()], 0) == 0


# Warnings


@pytest.mark.parametrize(("loss", "doubted"), [(1.01, False), (1.05, True), (0.36, False), (0.3, True)])
def test_the_first_loss_is_within_half_of_the_log_of_the_classes(loss: float, doubted: bool) -> None:
    sentence = warnings.on_first_loss(probe(first_loss=loss), math.log(2))
    assert (sentence is not None) == doubted
    assert sentence is None or f"is {loss:.2f}, but" in sentence


def test_a_metric_that_failed_is_told() -> None:
    assert warnings.on_metric(probe()) is None
    error = "task.metric 'own:score' raised ValueError on 60 rows: no."
    said = warnings.on_metric(probe(metric_error=error))
    assert said == f"After a few steps {error} Each trial in which this happens fails."


def test_a_loss_that_is_no_number_is_told_as_such() -> None:
    assert warnings.on_first_loss(probe(first_loss=math.nan), math.log(2)) == warnings.NO_NUMBER


def test_texts_that_are_cut() -> None:
    assert warnings.on_cut_texts(0.1, 128) is None
    assert "12% of the training examples" in (warnings.on_cut_texts(0.12, 128) or "")


def test_classes_that_few_rows_tell_about() -> None:
    names = ("money", "sport")
    of_both, of_sport, of_rows = (
        resolve_metric(TaskConfig(metric=metric, positive_label="sport"), names, names)
        for metric in ("macro_f1", "f1", "accuracy")
    )
    assert warnings.on_rare_classes(splits(10, 10), of_both) is None
    assert "for 'sport' (9), so" in (warnings.on_rare_classes(splits(9, 10), of_both) or "")
    assert "for 'sport' (9), so" in (warnings.on_rare_classes(splits(9, 10), of_sport) or "")
    assert warnings.on_rare_classes(splits(10, 9), of_sport) is None
    assert warnings.on_rare_classes(splits(9, 9), of_rows) is None


def test_words_for_labels_that_no_row_has_are_told() -> None:
    assert warnings.on_idle_words({}, ["money", "sport"]) is None
    assert warnings.on_idle_words({"sport": "goal", "money": "bank"}, ["money", "sport"]) is None
    told = warnings.on_idle_words({"sport": "goal", "money": "bank", "art": "film"}, ["money", "sport"]) or ""
    assert told.endswith("that no training row has, which are not used: 'art'.")


def test_a_time_for_fewer_than_ten_trials() -> None:
    assert warnings.on_few_trials(forecast().fitting, 40, 6) is None
    assert warnings.on_few_trials(forecast(seconds_left=None).fitting, 40, 6) is None
    sentence = warnings.on_few_trials(forecast(seconds_left=1299.0).fitting, 40, 6)
    assert sentence is not None
    assert "Only 8 of the longest trials fit" in sentence
    assert "epochs (now 6)" in sentence
    assert warnings.on_few_trials(forecast(seconds_left=1299.0).fitting, 8, 6) is None, "as many as asked for"


def test_trials_beyond_their_own_limit() -> None:
    assert warnings.on_trial_time(forecast().trial_seconds, None) is None
    assert warnings.on_trial_time(forecast().trial_seconds, 260.0) is None
    assert "takes about 4 min 20 s, more than budget.trial_time (2 min 00 s)" in (
        warnings.on_trial_time(forecast().trial_seconds, 120.0) or ""
    )


def test_a_grace_too_short_for_the_checkpoints_of_all_workers() -> None:
    assert warnings.on_grace(30.0, 30.0) is None
    sentence = warnings.on_grace(61.0, 30.0)
    assert sentence is not None
    assert "about 1 min 01 s to write their checkpoints, more than compute.grace_seconds (30 s)" in sentence
    assert "set it to 130." in sentence


def test_a_disk_too_small() -> None:
    assert warnings.on_disk(GIB, GIB, "files") is None
    assert "need up to 13 GiB, but files has 1.5 GiB;" in (warnings.on_disk(13 * GIB, 3 * GIB // 2, "files") or "")


def test_a_memory_too_small_for_all_workers() -> None:
    one = probe(peak_memory_bytes=GIB, room_bytes=4 * GIB)
    assert warnings.on_memory([one], 4) is None
    assert warnings.on_memory([probe(room_bytes=0)], 5) is None, "it is not known"
    sentence = warnings.on_memory([one, probe(peak_memory_bytes=1, room_bytes=0)], 5)
    assert sentence is not None
    assert sentence.startswith("5 workers need up to 5.0 GiB of memory, but the device has 4.0 GiB;")


def test_a_store_on_a_disk_that_is_nearly_full_or_slow() -> None:
    assert warnings.on_full_store(GIB, "/data") is None
    assert "only 512 MiB left at /data" in (warnings.on_full_store(GIB // 2, "/data") or "")
    assert warnings.on_slow_store(0.1, "/data") is None
    assert "takes 0.25 s" in (warnings.on_slow_store(0.25, "/data") or "")


def test_a_gpu_left_idle_and_a_battery() -> None:
    assert warnings.on_unused_gpu(1, "auto") is None
    assert warnings.on_unused_gpu(0, "cpu") is None
    assert "has a GPU" in (warnings.on_unused_gpu(1, "cpu") or "")
    assert warnings.on_battery(False) is None
    assert "battery" in (warnings.on_battery(True) or "")


def test_what_does_not_fit_says_which_configuration_and_what_to_do() -> None:
    sentence = warnings.no_room("dearest", FULL)
    assert "The dearest configuration" in sentence
    assert "max_length 128" in sentence
    assert "remove full from the values" in sentence
    assert "from the values" not in warnings.no_room("cheapest", HEAD)
