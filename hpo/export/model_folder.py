"""The final model: trained by an exported configuration, in a folder that `from_pretrained` opens."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from hpo.config.study_file import ComputeConfig
from hpo.data.sources import Examples
from hpo.data.splits import Splits
from hpo.errors import ConfigurationError, TrainingError
from hpo.export.exported import Exported
from hpo.export.model_card import model_card
from hpo.export.prediction import KEY, said_of_model
from hpo.export.retraining import Here, Said, here, opened, trained
from hpo.files.weights import fitted_among, load_weights, weights_path
from hpo.messages import Milestone, Report
from hpo.model.pretrained import load_model, quietly
from hpo.model.trial_model import TrialModel
from hpo.tasks.registry import task_of

On = Literal["train", "train+validation"]
END = Milestone(rung=1000, full=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is trained on, and which weights are taken."""

    splits: Splits
    milestones: tuple[Milestone, ...] | None = None
    """None for those of the search: the weights of the best evaluation are taken."""
    stop_at: int | None = None
    """Rung at which it ends; None for its end."""
    is_scored: bool = False
    """Whether validation was left out of training, so that the score says something."""
    sentence: str


def plan_of(exported: Exported, splits: Splits, on: On) -> Plan:
    """Return what is trained on, and to where.

    Raises:
        ConfigurationError: the schedule follows the score on validation, which would be trained on.
    """
    rows = splits.train.rows
    if exported.evaluation.folds:
        return Plan(
            splits=replace(splits, folds=()),
            milestones=(END,),
            sentence=f"Trained on all {rows:,} training rows, to the end: the search scored it on folds of them.",
        )
    if on == "train":
        return Plan(
            splits=splits,
            is_scored=True,
            sentence=f"Trained on the {rows:,} training rows; the weights are those of the best evaluation on the "
            f"{splits.validation.rows:,} of validation.",
        )
    return _on_both(exported, splits)


def _on_both(exported: Exported, splits: Splits) -> Plan:
    if exported.hyperparameters.schedule == "reduce_on_plateau":
        raise ConfigurationError(
            "The schedule reduce_on_plateau follows the score on validation, which --on train+validation trains on; "
            "use --on train."
        )
    best, last = exported.best_milestone, exported.milestones[-1].rung
    rows = together(splits.train, splits.validation)
    joined = replace(splits, train=together(rows, splits.confirmation) if splits.confirmation else rows)
    return Plan(
        splits=joined,
        milestones=(best,) if best.rung == last else (best, replace(best, rung=last)),
        stop_at=None if best.rung == last else best.rung,
        sentence=f"Trained on the {joined.train.rows:,} rows of training and validation together, for "
        f"{exported.best_epoch:.4g} epochs, which was best in the search; no row was left to score it on.",
    )


def together(first: Examples, second: Examples) -> Examples:
    """Return the rows of both, in their order."""
    return Examples(
        texts=first.texts + second.texts,
        pairs=None if first.pairs is None or second.pairs is None else first.pairs + second.pairs,
        labels=first.labels + second.labels,
        groups=None if first.groups is None or second.groups is None else first.groups + second.groups,
    )


def train_into(output: Path, exported: Exported, compute: ComputeConfig, on: On, say: Said) -> None:
    """Train a configuration and write model, tokenizer and card to the folder `output`, whole or not at all.

    Raises:
        ConfigurationError: `output` is not empty or cannot be written, which is told before training.
        HpoError: the texts, the model or the device cannot be used, or training failed.
    """
    with made_whole(output) as part:
        place = here(exported, compute)
        plan = plan_of(exported, place.splits, on)
        say(plan.sentence)
        planned = replace(place, splits=plan.splits)
        report = _trained(exported, planned, plan, part, say)
        model = part / "model"
        _save(exported, planned, part, model)
        card = model_card(exported, plan.sentence, report.validation if plan.is_scored else None)
        (model / "README.md").write_text(card, encoding="utf-8")


def _trained(exported: Exported, place: Here, plan: Plan, part: Path, say: Said) -> Report:
    worker = opened(exported, place, part)
    try:
        report = trained(worker, exported.assignment(plan.milestones), say, plan.stop_at)
    finally:
        worker.close()
    if not weights_path(part, exported.trial).is_file():
        raise TrainingError(f"The weights could not be written beside the output, in {part.parent}; make room there.")
    return report


def _save(exported: Exported, place: Here, part: Path, folder: Path) -> None:
    """Write the pretrained model with the trained weights in it."""
    config, splits = place.config, place.splits
    task = task_of(config.task, splits)
    model = load_model(config.model, task, torch.device("cpu"))
    tensors = load_weights(part, exported.trial)
    fitted = fitted_among(tensors)
    TrialModel(model, task, exported.hyperparameters, seed=0).load(tensors)
    network = _plain(model.network, config.model.gguf_file)
    setattr(network.config, KEY, said_of_model(exported, splits, task, fitted))
    with quietly():
        network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    # safetensors writes for its owner alone; whoever may read the rest of the folder may read the weights too.
    readable = (folder / "config.json").stat().st_mode
    for weights in folder.glob("*.safetensors"):
        weights.chmod(readable)


def _plain(network: Any, gguf_file: str | None) -> Any:
    """Return a network that may be saved: of one that was read from GGUF transformers says that it is quantized."""
    if gguf_file is None:
        return network
    config = network.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(network)(config)
    plain.load_state_dict(network.state_dict())
    return plain


@contextmanager
def made_whole(output: Path) -> Iterator[Path]:
    """Yield a folder beside `output` whose `model` becomes `output` at the end; whatever goes wrong, it is removed.

    Raises:
        ConfigurationError: `output` is something already, or cannot be written.
    """
    _refuse_taken(output)
    output = output.resolve()
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{output.name}-", suffix=".part", dir=output.parent))
    except OSError as error:
        raise _unwritable(output, error) from None
    try:
        if output.is_dir():
            # To know it before hours of training: where a disk is mounted nothing can take the place of a folder.
            output.rename(part / "empty").rename(output)
        yield part
        os.replace(part / "model", output)
    except OSError as error:
        raise _unwritable(output, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _refuse_taken(output: Path) -> None:
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise ConfigurationError(f"Cannot write the model to {output}: it is no folder; name another with --output.")
    if output.is_dir() and any(output.iterdir()):
        raise ConfigurationError(
            f"The folder {output} is not empty, and what is in it would be mixed with the model; name another with "
            "--output, or empty it."
        )


def _unwritable(output: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"Cannot write the model to {output}: {error.strerror or error}; name another folder with --output."
    )
