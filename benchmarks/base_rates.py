"""Base learning rates: the rate at which each optimizer moves a pretrained encoder about as far as AdamW does.

MiniLM learns the BBC news topics for `--steps` steps at a constant rate, without regularisation. How far it moved is
the root mean square, over the matrices of its transformer layers, of the distance from the pretrained weights. For
each optimizer the rate is sought at which that equals AdamW's: a starting point from which a search over factors of
ten either way has somewhere to go, no claim that it is the best. The spaces round what is printed.

Run: python benchmarks/base_rates.py [--steps 50] [--reference 3e-5] [--threads 2]
"""

import argparse
from collections.abc import Callable, Iterator

import torch

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import ModelConfig
from hpo.config.tasks import TaskConfig
from hpo.data.batching import Batch, collate, training_batches
from hpo.data.demo import demo_examples, demo_model_folder
from hpo.data.tokenization import TokenizedSplit, tokenize
from hpo.model.backbone import Backbone
from hpo.model.pretrained import load_model
from hpo.model.trial_model import TrialModel
from hpo.space.space_file import load_space
from hpo.tasks.classification import Classification
from hpo.training.gradients import Gradients
from hpo.training.optimizer_step import OptimizerStep
from hpo.training.optimizers import OPTIMIZERS

ROWS, LENGTH = 16, 32
CLOSE_ENOUGH = 1.1
MOST_TRIES = 6


def main() -> None:
    """Print, optimizer by optimizer, the rate that moves the weights as far as AdamW's reference rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--reference", type=float, default=3e-5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    examples = demo_examples()
    task = Classification.of(TaskConfig(), examples.labels)
    model = load_model(ModelConfig(name=str(demo_model_folder())), task, torch.device("cpu"))
    tokens = tokenize(examples.texts, None, model.tokenizer, LENGTH)
    split = TokenizedSplit(tokens=tokens, targets=task.targets(examples.labels))

    def moved(optimizer: str, rate: float) -> float:
        return distance_moved(model, task, split, optimizer, rate, options.steps)

    wanted = moved("adamw", options.reference)
    shipped = shipped_rates()
    print(f"adamw at {options.reference:g} moves each weight by {wanted:.2e} in {options.steps} steps.\n")
    print(f"{'optimizer':<20} {'rate':>9} {'moved':>9} {'shipped':>9}")
    for optimizer in OPTIMIZERS:
        rate, found = (options.reference, wanted) if optimizer == "adamw" else sought(optimizer, shipped, wanted, moved)
        print(f"{optimizer:<20} {rate:>9.1e} {found / wanted:>8.2f}x {shipped[optimizer]:>9.0e}", flush=True)


def shipped_rates() -> dict[str, float]:
    """Return the base rates of the space of all optimizers."""
    space = load_space("optimizers_and_schedules")
    rate = next(parameter for parameter in space.parameters if parameter.name == "learning_rate")
    return dict(rate.relative_to["optimizer"])


def sought(
    optimizer: str, shipped: dict[str, float], wanted: float, moved: Callable[[str, float], float]
) -> tuple[float, float]:
    """Return the rate at which `optimizer` moves as far as wanted, and how far that is, within a tenth if it can be."""
    rate = shipped[optimizer]
    found = moved(optimizer, rate)
    for _ in range(MOST_TRIES):
        if 1 / CLOSE_ENOUGH < found / wanted < CLOSE_ENOUGH:
            break
        rate *= wanted / found
        found = moved(optimizer, rate)
    return rate, found


def distance_moved(
    model: Backbone, task: Classification, split: TokenizedSplit, optimizer: str, rate: float, steps: int
) -> float:
    """Return the root mean square distance of the layers' matrices from their pretrained values after `steps`."""
    values = Hyperparameters.model_validate(
        {
            "optimizer": optimizer,
            "learning_rate": rate,
            "schedule": "constant",
            "warmup_ratio": 0.0,
            "l2_strength": 0.0,
            "dropout": 0.0,
        }
    )
    gradients, training = Gradients(), OptimizerStep(TrialModel(model, task, values, seed=0), steps)
    for batch in batches(model, split, steps):
        training.take(gradients.of(training.model, batch))
    with training.evaluating(), torch.no_grad():
        before = model.pretrained(training.parameters)
        distances = [
            (parameter - before[name]).square().flatten()
            for name, parameter in training.parameters.items()
            if parameter.ndim == 2 and ".layer." in name
        ]
        return float(torch.cat(distances).mean().sqrt())


def batches(model: Backbone, split: TokenizedSplit, steps: int) -> Iterator[Batch]:
    order = training_batches(split.tokens.rows, ROWS, seed=0, epoch=0)
    return (collate(split, rows, model.pad_id) for rows in order[:steps])


if __name__ == "__main__":
    main()
