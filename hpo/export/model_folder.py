"""Final model: trained from an exported configuration, in a folder that transformers or PEFT loads."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import ComputeConfig, ModelConfig, StudyConfig
from hpo.data.sources import Examples
from hpo.data.splits import Splits
from hpo.errors import ConfigurationError, TrainingError
from hpo.export.adapter import ADAPTER_CONFIG, refuse_broken_peft, save_adapter
from hpo.export.exported_file import Exported
from hpo.export.model_card import model_card
from hpo.export.output_folder import atomic_folder
from hpo.export.prediction import ADAPTER_FACTS, CONFIG_KEY, folder_model, trained_model
from hpo.export.retraining import Say, open_trainer, retrain, study_and_splits
from hpo.files.disk import system_errors
from hpo.files.weights import weights_path
from hpo.messages import Milestone, Report, Scores
from hpo.model.lora import merge as merge_adapters
from hpo.model.pretrained import load_model, quietly
from hpo.model.trial_model import TrialModel
from hpo.store.study_store import has_other_weights
from hpo.tasks.registry import task_of
from hpo.training.context import TrainingContext
from hpo.training.device import choose_device
from hpo.training.worker import Worker

On = Literal["train", "train+validation"]
END = Milestone(rung=1000, full=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalTraining:
    """Rows and length of a final training, and the weights to keep."""

    splits: Splits
    milestones: tuple[Milestone, ...] | None = None
    """Milestones; None for those of the search, and the weights of the best evaluation."""
    stop_at: int | None = None
    """Rung at which the training ends; None for its full length."""
    is_scored: bool = False
    """True if validation is not trained on, so that its score is meaningful."""
    sentence: str


def final_training(exported: Exported, splits: Splits, on: On) -> FinalTraining:
    """Return the rows to train on, and the length of the training.

    Raises:
        ConfigurationError: the schedule depends on the score on validation, which would be trained on.
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
    """Return the rows of both, the first ones first."""
    return Examples(
        texts=first.texts + second.texts,
        pairs=None if first.pairs is None or second.pairs is None else first.pairs + second.pairs,
        labels=first.labels + second.labels,
        groups=None if first.groups is None or second.groups is None else first.groups + second.groups,
    )


def train_into(
    output: Path, exported: Exported, compute: ComputeConfig, on: On, say: Say, *, merge: bool = False
) -> None:
    """Train a configuration and write model, tokenizer and card to the folder `output`, completely or not at all.

    With method `lora`, the model is an adapter, or with `merge` the pretrained model with the adapter merged into it.

    Raises:
        ConfigurationError: raised before training: `output` is not empty or cannot be written, or there is no adapter
            to write or merge.
        HpoError: the texts, the model or the device cannot be used, or training failed.
    """
    _refuse_form(exported.hyperparameters, merge=merge)
    with atomic_folder(output) as part:
        config, splits = study_and_splits(exported, compute)
        training = final_training(exported, splits, on)
        worker = open_trainer(exported, config, training.splits, part)
        sentence = training.sentence + _other_weights(exported, worker.facts())
        say(sentence)
        model, fitted, report = _trained(exported, worker, training, part, say)
        scores = report.validation if training.is_scored else None
        facts = trained_model(exported, training.splits, task_of(config.task, training.splits), fitted)
        facts |= {"task": exported.task.kind, "learned": facts["learned"] | model.backbone.head.learned()}
        folder = part / "model"
        with system_errors():
            if exported.hyperparameters.method == "lora" and not merge:
                _save_adapter(model, config.model, facts, folder)
            else:
                whole = _merged(model, exported, config, training.splits) if merge else model
                _save_whole(whole, facts, config, folder)
            model.backbone.tokenizer.save_pretrained(folder)
        _let_all_read(folder)
        if merge and scores is not None:
            before, scores = scores, _scores_of_folder(folder, exported, config, splits, fitted)
            sentence = f"{sentence} {_difference(before, scores)}"
            say(_difference(before, scores))
        card = model_card(exported, sentence, scores, is_adapter=(folder / ADAPTER_CONFIG).is_file())
        (folder / "README.md").write_text(card, encoding="utf-8")


def _refuse_form(hyperparameters: Hyperparameters, *, merge: bool) -> None:
    """Refuse to merge without an adapter, and to train an adapter that PEFT could not write, or not mount."""
    if hyperparameters.method != "lora" and merge:
        raise ConfigurationError(
            f"--merge puts the adapter of method lora into the model's weights, but the method is "
            f"{hyperparameters.method}, which writes the whole model anyway; leave it out."
        )
    if hyperparameters.method == "lora" and hyperparameters.kept_layers is not None and not merge:
        raise ConfigurationError(
            f"kept_layers is {hyperparameters.kept_layers}, but PEFT would put the adapter on the pretrained model "
            "with all its layers; say --merge for a whole model of the layers that are kept."
        )
    if hyperparameters.method == "lora" and not merge:
        refuse_broken_peft()


def _other_weights(exported: Exported, facts: Mapping[str, str]) -> str:
    """Return a sentence, after a space, that the model is not that of the search; empty if it is, or if unknown."""
    if not has_other_weights(exported.versions, {**facts, "transformers": version("transformers")}):
        return ""
    return (
        f" {exported.model.name} has other pretrained weights than the model of the search: the configuration was not "
        "searched for it, and no score of the search is one of it."
    )


def _trained(
    exported: Exported, worker: Worker, training: FinalTraining, part: Path, say: Say
) -> tuple[TrialModel, NDArray[np.float64] | None, Report]:
    """Return the model with its best weights, the values that its task has fitted, and their evaluation."""
    assignment = exported.assignment(training.milestones)
    try:
        report = retrain(worker, assignment, say, training.stop_at)
        if not weights_path(part, exported.trial).is_file():
            raise TrainingError(
                f"The weights could not be written beside the output, in {part.parent}; make room there."
            )
        return *worker.trained(assignment), report
    finally:
        worker.close()


def _merged(model: TrialModel, exported: Exported, config: StudyConfig, splits: Splits) -> TrialModel:
    """Return the model with its adapters merged; into 16-bit weights if it was trained over 4-bit ones."""
    if config.model.quantization:
        plain = config.model.model_copy(update={"quantization": None})
        task, weights = task_of(config.task, splits), model.parameters
        model = TrialModel(
            load_model(plain, task, torch.device("cpu")), task, exported.hyperparameters, seed=exported.seed
        )
        model.load(weights)
    model.modules = merge_adapters(model.modules)
    model.backbone.mount(model.modules)
    return model


def _save_adapter(model: TrialModel, base: ModelConfig, facts: Mapping[str, Any], folder: Path) -> None:
    """Write an adapter with the absolute path of its base model, and the facts that predictions need."""
    if Path(base.name).is_dir():
        base = base.model_copy(update={"name": str(Path(base.name).resolve())})
    save_adapter(model, base, folder)
    # Quantized on another device, its numbers may be others.
    fingerprint = None if base.quantization else model.backbone.fingerprint
    beside = {"base": base.model_dump(exclude={"trust_remote_code"}), "base_fingerprint": fingerprint}
    (folder / ADAPTER_FACTS).write_text(json.dumps({**facts, **beside}, indent=2) + "\n", encoding="utf-8")


def _save_whole(model: TrialModel, facts: Mapping[str, Any], config: StudyConfig, folder: Path) -> None:
    network = _unquantized(model.backbone.network, config.model.gguf_file)
    setattr(network.config, CONFIG_KEY, facts)
    with quietly():
        network.save_pretrained(folder)


def _let_all_read(folder: Path) -> None:
    """Give the weights the permissions of the folder's other files; safetensors lets only the owner read them."""
    readable = next(folder.glob("*.json")).stat().st_mode
    for weights in folder.glob("*.safetensors"):
        weights.chmod(readable)


def _scores_of_folder(
    folder: Path, exported: Exported, config: StudyConfig, splits: Splits, fitted: NDArray[np.float64] | None
) -> Scores:
    """Score a whole model on validation, loaded from its folder."""
    task = task_of(config.task, splits)
    there = folder_model(folder).model_copy(update={"trust_remote_code": config.model.trust_remote_code})
    backbone = load_model(there, task, choose_device(config.compute), trained=True)
    context = TrainingContext(config, splits, task, backbone, None)
    answers = context.predict(context.tokenized(exported.hyperparameters.max_length)["validation"])
    return task.scores(context.decided(answers, fitted))


def _difference(before: Scores, after: Scores) -> str:
    """Return a sentence on the change of the score by merging."""
    change = after.objective - before.objective
    text = f"{abs(change):.4f} {'more' if change > 0 else 'less'} than" if change else "as"
    return f"Merged, {after.metric} on validation is {after.objective:.4f}, {text} with the adapter beside the weights."


def _unquantized(network: Any, gguf_file: str | None) -> Any:
    """Return a network that transformers can save; it treats one that was read from GGUF as quantized."""
    if gguf_file is None:
        return network
    config = network.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(network)(config).to(network.dtype)
    plain.load_state_dict(network.state_dict())
    return plain
