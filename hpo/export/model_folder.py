"""Final model: trained by an exported configuration, in a folder that `from_pretrained` opens."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.sources import Examples
from hpo.data.splits import Splits
from hpo.errors import ConfigurationError, TrainingError
from hpo.export.exported_file import Exported
from hpo.export.model_card import model_card
from hpo.export.prediction import CONFIG_KEY, trained_model
from hpo.export.retraining import Say, open_trainer, retrain, study_and_splits
from hpo.export.writing import unwritable
from hpo.files.weights import fitted_among, load_weights, weights_path
from hpo.messages import Milestone, Report
from hpo.model.pretrained import load_model, quietly
from hpo.model.trial_model import TrialModel
from hpo.tasks.registry import task_of

On = Literal["train", "train+validation"]
END = Milestone(rung=1000, full=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalTraining:
    """Which rows are trained on, and which weights are kept."""

    splits: Splits
    milestones: tuple[Milestone, ...] | None = None
    """None for those of the search: the weights of the best evaluation are kept."""
    stop_at: int | None = None
    """Rung at which it ends; None for its end."""
    is_scored: bool = False
    """Whether validation was left out of training, so that its score is meaningful."""
    sentence: str


def final_training(exported: Exported, splits: Splits, on: On) -> FinalTraining:
    """Return which rows to train on, and up to where.

    Raises:
        ConfigurationError: the schedule follows the score on validation, which would be trained on.
    """
    rows = splits.train.rows
    if exported.evaluation.folds:
        return FinalTraining(
            splits=replace(splits, folds=()),
            milestones=(END,),
            sentence=f"Trained on all {rows:,} training rows, to the end: the search scored it on folds of them.",
        )
    if on == "train":
        return FinalTraining(
            splits=splits,
            is_scored=True,
            sentence=f"Trained on the {rows:,} training rows; the weights are those of the best evaluation on the "
            f"{splits.validation.rows:,} of validation.",
        )
    if exported.hyperparameters.schedule == "reduce_on_plateau":
        raise ConfigurationError(
            "The schedule reduce_on_plateau follows the score on validation, which --on train+validation trains on; "
            "use --on train."
        )
    best, last = exported.best_milestone, exported.milestones[-1].rung
    joined = concatenated(splits.train, splits.validation)
    if splits.confirmation:
        joined = concatenated(joined, splits.confirmation)
    return FinalTraining(
        splits=replace(splits, train=joined),
        milestones=(best,) if best.rung == last else (best, replace(best, rung=last)),
        stop_at=None if best.rung == last else best.rung,
        sentence=f"Trained on the {joined.rows:,} rows of training and validation together, for "
        f"{exported.best_epoch:.4g} epochs, which was best in the search; no row was left to score it on.",
    )


def concatenated(first: Examples, second: Examples) -> Examples:
    """Return the rows of both, in their order."""
    return Examples(
        texts=first.texts + second.texts,
        pairs=None if first.pairs is None or second.pairs is None else first.pairs + second.pairs,
        labels=first.labels + second.labels,
        groups=None if first.groups is None or second.groups is None else first.groups + second.groups,
    )


def train_into(output: Path, exported: Exported, compute: ComputeConfig, on: On, say: Say) -> None:
    """Train a configuration and write model, tokenizer and card to the folder `output`, whole or not at all.

    Raises:
        ConfigurationError: `output` is not empty or cannot be written, which is told before training.
        HpoError: the texts, the model or the device cannot be used, or training failed.
    """
    with atomic_folder(output) as part:
        config, splits = study_and_splits(exported, compute)
        training = final_training(exported, splits, on)
        say(training.sentence)
        report = _train(exported, config, training, part, say)
        _save(exported, config, training.splits, part)
        card = model_card(exported, training.sentence, report.validation if training.is_scored else None)
        (part / "model" / "README.md").write_text(card, encoding="utf-8")


def _train(exported: Exported, config: StudyConfig, training: FinalTraining, part: Path, say: Say) -> Report:
    worker = open_trainer(exported, config, training.splits, part)
    try:
        report = retrain(worker, exported.assignment(training.milestones), say, training.stop_at)
    finally:
        worker.close()
    if not weights_path(part, exported.trial).is_file():
        raise TrainingError(f"The weights could not be written beside the output, in {part.parent}; make room there.")
    return report


def _save(exported: Exported, config: StudyConfig, splits: Splits, part: Path) -> None:
    """Write the model with the trained weights of `part` to the folder `model` in it."""
    folder = part / "model"
    task = task_of(config.task, splits)
    model = load_model(config.model, task, torch.device("cpu"))
    tensors = load_weights(part, exported.trial)
    fitted = fitted_among(tensors)
    TrialModel(model, task, exported.hyperparameters, seed=0).load(tensors)
    network = _unquantized(model.network, config.model.gguf_file)
    said = trained_model(exported, splits, task, fitted)
    said |= {"task": exported.task.kind, "learned": said["learned"] | model.head.learned()}
    setattr(network.config, CONFIG_KEY, said)
    with quietly():
        network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    # safetensors writes for its owner alone; whoever may read the rest of the folder may read the weights too.
    readable = (folder / "config.json").stat().st_mode
    for weights in folder.glob("*.safetensors"):
        weights.chmod(readable)


def _unquantized(network: Any, gguf_file: str | None) -> Any:
    """Return a network that transformers saves: it takes one that was read from GGUF for quantized."""
    if gguf_file is None:
        return network
    config = network.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(network)(config)
    plain.load_state_dict(network.state_dict())
    return plain


@contextmanager
def atomic_folder(output: Path) -> Iterator[Path]:
    """Yield a folder beside `output` whose `model` becomes `output` at the end; whatever goes wrong, it is removed.

    Raises:
        ConfigurationError: `output` is something already, or cannot be written.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise ConfigurationError(f"Cannot write {output}: it is no folder; name another place with --output.")
    if output.is_dir() and any(output.iterdir()):
        raise ConfigurationError(
            f"The folder {output} is not empty, and what is in it would be mixed with the model; name another with "
            "--output, or empty it."
        )
    output = output.resolve()
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{output.name}-", suffix=".part", dir=output.parent, ignore_cleanup_errors=True
        ) as name:
            part = Path(name)
            if output.is_dir():
                # To know it before hours of training: where a disk is mounted nothing can take the place of a folder.
                output.rename(part / "empty").rename(output)
            yield part
            os.replace(part / "model", output)
    except OSError as error:
        raise unwritable(output, error) from error
