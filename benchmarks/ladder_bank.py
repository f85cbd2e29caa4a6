"""Bank of real trials for `ladder.py`: recorded curves of random configurations, and the pace of each method.

`record` trains configurations that are drawn at random from `SPACE`, each to its end, as a study of hpo, and so resumes
where it was interrupted. Then each way to train takes the same few configurations in turns. A way's pace is the
median, over these, of its seconds relative to those of the recorded trial, which is evaluated more often than usual.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest.mock import patch

import ladder_data
import numpy as np
import optuna
from curve_responses import Responses, fit_table
from curve_tables import LOG, Row, Table
from ladder_trainer import LENGTH, TrainerLoop

import hpo
from hpo.config.loading import load_config
from hpo.config.study_file import StudyConfig
from hpo.data.demo import demo_model_folder
from hpo.data.splits import load_splits
from hpo.messages import Ending
from hpo.runners.replay.curves import Curve, export_curves, read_curves, to_lines
from hpo.search.pruners import PromotionPruner, with_evaluation_defaults
from hpo.space.space_file import load_space, space_of
from hpo.store.database import open_database

SPACE: Mapping[str, Any] = {
    "optimizer": {"value": "adamw"},
    "max_length": {"value": LENGTH},
    "epochs": {"min": 2, "max": 8, "default": 4},
    "batch_size": {"values": [8, 16, 32], "default": 16},
    "learning_rate": {"distribution": LOG, "min": 1e-5, "max": 2e-3, "default": 5e-5},
    "warmup_ratio": {"min": 0.0, "max": 0.3, "default": 0.1},
    "dropout": {"min": 0.0, "max": 0.3, "default": 0.1},
    "l2_strength": {"distribution": LOG, "min": 1e-4, "max": 0.3, "default": 0.01},
    "label_smoothing": {"min": 0.0, "max": 0.2, "default": 0.0},
}
"""Values that hpo and the Trainer both know; the defaults are the Trainer's usual ones."""
FIXED: Mapping[str, Any] = {name: one["value"] for name, one in SPACE.items() if "value" in one}
OURS, TUTORIAL, WELL, HALVING, RAY = "hpo", "tutorial", "done well", "half epochs", "Ray Tune"
TRAINERS: Mapping[str, Mapping[str, Any]] = {
    TUTORIAL: {"well": False},
    WELL: {"well": True},
    HALVING: {"well": True, "evaluations": 2},
}
"""Way to train under the Trainer -> its options of `TrainerLoop`."""
FULL_REPORTS = 4
"""Full evaluations of a recorded trial."""
DEFAULT_TURNS, OTHERS = 3, 2
"""Number of times that each way trains the default, and number of other configurations that it trains once."""
RAY_TRIALS = 3
LEAST_DEVIATION = (0.75 * 0.25 / ladder_data.VALIDATION) ** 0.5
"""Standard deviation of an accuracy of 0.75 on the validation rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """The recording of a data set."""

    responses: Responses
    paces: Mapping[str, float]
    """Way to train -> its seconds relative to those of the recorded trial."""
    default_ratios: Mapping[str, Sequence[float]]
    """Way to train -> hpo's seconds of the default relative to its own, once for each turn."""
    lengths: tuple[int, int, int]
    """Tokens of a training text: least, median, most."""


def study(name: str, folder: Path, overrides: Sequence[str] = (), **sections: Any) -> StudyConfig:
    """Return a study of a data set as hpo would run it, without a confirmation and a portfolio.

    Args:
        name: the data set.
        folder: folder of the bank, with the store.
        overrides: overrides as on the command line.
        sections: other sections of the study file.
    """
    paths = {part: str(path) for part, path in ladder_data.write(name, folder).items() if part != "unseen"}
    values: dict[str, Any] = {
        "study": name, "space": {**SPACE, "portfolio": portfolio()}, "data": paths,
        "model": sections.get("model") or {"name": str(demo_model_folder())},
        "store": {"url": f"sqlite:///{folder / 'bank.db'}"}, "confirmation": {"finalists": 0, "audit": 0.0},
        "compute": {"device": "cpu"},
    }  # fmt: skip
    config = load_config(values={**values, **sections}, overrides=["search.portfolio=false", *overrides])
    return with_evaluation_defaults(config, space_of(dict(SPACE)), load_splits(config.data, config.seed))


def portfolio() -> list[dict[str, Any]]:
    """Return the published configurations of the space `encoder_small`, as far as `SPACE` has their values."""
    largest = max(SPACE["batch_size"]["values"])
    return [
        {
            "source": one.source, "batch_size": min(largest, one.values["batch_size"]),
            **{name: one.values[name] for name in ("learning_rate", "warmup_ratio", "epochs")},
        }
        for one in load_space("encoder_small").portfolio
    ]  # fmt: skip


def record(name: str, folder: Path, trials: int, *, turns: int = DEFAULT_TURNS, others: int = OTHERS) -> None:
    """Train the bank of a data set and measure the paces; resume what was interrupted.

    Args:
        name: of the data set.
        folder: of the bank.
        trials: random configurations of the bank.
        turns: number of times that each way trains the default.
        others: number of other configurations that each way trains once.
    """
    config = study(
        name, folder, search={"sampler": "random"}, budget={"trials": trials},
        evaluation={"full_reports": FULL_REPORTS, "rung_rows": ladder_data.VALIDATION},
    )  # fmt: skip
    # Each trial is evaluated at the shares of promotion, on all of validation, and none is paused.
    with patch.object(PromotionPruner, "prune", lambda *_: False):
        results = hpo.run(config)
    recording = export_curves(open_database(config.store.url), name)
    (folder / f"{name}-curves.jsonl").write_text(to_lines(recording))
    print(f"{name}: {len(recording.curves)} curves, best {results.best.score if results.best else None}", flush=True)
    time_ways(name, folder, [dict(curve.hyperparameters) for curve in recording.curves], turns, others)


def time_ways(name: str, folder: Path, configurations: Sequence[Mapping[str, Any]], turns: int, others: int) -> None:
    """Train the same configurations in each way, in turns, and append the seconds of each trial to a file."""
    paths, lines = ladder_data.write(name, folder), folder / f"{name}-seconds.jsonl"
    known = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    done = {(one["way"], one["configuration"], one["turn"]) for one in known}
    loops = {way: TrainerLoop(paths, **options) for way, options in TRAINERS.items()}
    for loop in loops.values():
        loop.open()
    ways = {way: partial(seconds_of, partial(loop.train, seed=0)) for way, loop in loops.items()}
    ways[OURS] = partial(seconds_of, own_trial(name, folder))
    chosen = [(0, turn) for turn in range(turns)] + [(other, 0) for other in range(1, 1 + others)]
    planned = [(way, *one) for one in chosen for way in sorted(ways, reverse=one[1] % 2 == 1)]
    ways[RAY] = partial(ray_seconds, name, folder, loops[HALVING].bf16)
    for way, number, turn in [*planned, (RAY, 0, 0)]:
        # Tutorials' way takes long, and need not be timed as precisely as the others.
        if (way, number, turn) not in done and not (way == TUTORIAL and turn):
            seconds = ways[way](configurations[number])
            print(f"{name}, configuration {number}, {way}: {seconds:.1f} s", flush=True)
            with lines.open("a") as file:
                one = {"way": way, "configuration": number, "turn": turn, "seconds": seconds}
                file.write(json.dumps(one) + "\n")


def seconds_of(train: Callable[[Mapping[str, Any]], object], values: Mapping[str, Any]) -> float:
    """Return the seconds of training a configuration."""
    began = time.perf_counter()
    train(values)
    return time.perf_counter() - began


def own_trial(name: str, folder: Path, *, seeds: int = 1, **sections: Any) -> Callable[[Mapping[str, Any]], float]:
    """Return a function that trains a configuration as a trial of hpo, whose model is loaded already.

    It returns the mean score over that many seeds. `sections` are those of `study`.
    """
    objective = hpo.FineTuneObjective(study(name, folder, **sections))
    space = space_of(dict(SPACE))

    def train(values: Mapping[str, Any]) -> float:
        alone = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
        for _ in range(seeds):
            alone.enqueue_trial(space.sampled({name: values[name] for name in SPACE}))
        alone.optimize(objective, n_trials=seeds)
        return fmean(trial.values[0] for trial in alone.trials)

    train({**space.default_values(), "epochs": 2})
    return train


def ray_seconds(name: str, folder: Path, bf16: bool | None, values: Mapping[str, Any]) -> float:
    """Return the mean seconds of `RAY_TRIALS` trials under Ray Tune, which starts a process for each.

    Neither the start of Ray nor the choice of the precision is included: a search has one of each.
    """
    import ray
    from ray import tune

    paths = ladder_data.write(name, folder)

    def heard(number: int, score: float) -> bool:
        tune.report({"evaluation": number, "score": score})
        return False

    def trainable(values: Mapping[str, Any]) -> None:
        loop = TrainerLoop(paths, bf16=bf16, **TRAINERS[HALVING])
        loop.open()
        loop.train(values, seed=0, heard=heard)

    environment = {"env_vars": {"PYTHONPATH": f"{Path(__file__).parent}:{Path(hpo.__file__).parents[1]}"}}
    ray.init(address="local", include_dashboard=False, num_cpus=2, log_to_driver=False, runtime_env=environment)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 2}), param_space={name: values[name] for name in SPACE},
        tune_config=tune.TuneConfig(num_samples=RAY_TRIALS),
        run_config=tune.RunConfig(verbose=0, storage_path=str(folder / "ray")),
    )  # fmt: skip
    seconds = seconds_of(lambda _: tuner.fit(), values)
    ray.shutdown()
    return seconds / RAY_TRIALS


def bank_of(name: str, folder: Path) -> Bank:
    """Return the recording that `record` wrote."""
    recording = read_curves(folder / f"{name}-curves.jsonl")
    rows = [_row(curve) for curve in recording.curves]
    table = Table(name, SPACE, ladder_data.TRAIN, warmup_of_first_epoch=False, rows=rows, two_scores=False)
    seconds: dict[tuple[str, int], list[float]] = {}
    for line in (folder / f"{name}-seconds.jsonl").read_text().splitlines():
        one = json.loads(line)
        seconds.setdefault((one["way"], one["configuration"]), []).append(one["seconds"])
    ways = {way for way, _ in seconds}
    ratios = {
        way: [median(seconds[way, number]) / rows[number].seconds for other, number in seconds if other == way]
        for way in ways
    }
    defaults = {
        way: [one / other for one, other in zip(seconds[OURS, 0], seconds[way, 0], strict=False)] for way in ways
    }
    return Bank(
        responses=Responses(table, fit_table(table, LEAST_DEVIATION)),
        paces={way: median(found) for way, found in ratios.items()},
        default_ratios=defaults,
        lengths=_lengths(name, folder),
    )


def _row(curve: Curve) -> Row:
    scores = [curve.points[0].score, *(point.score for point in curve.points)]
    return Row(
        values=dict(curve.hyperparameters),
        shares=[0.0, *(point.rung / curve.length for point in curve.points)],
        searched=scores,
        judged=scores,
        seconds=curve.seconds,
        diverged=curve.ending is Ending.DIVERGED,
    )


def _lengths(name: str, folder: Path) -> tuple[int, int, int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_model_folder())
    texts = [text for text, _ in ladder_data.read(ladder_data.write(name, folder)["train"])]
    counts = [len(tokenizer(text)["input_ids"]) for text in texts]
    return min(counts), int(np.median(counts)), max(counts)
