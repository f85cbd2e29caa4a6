"""Which precision a study's trials compute in: what a few of its own training texts say."""

import torch

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import collate
from hpo.data.splits import stratified_part
from hpo.training.bench import Bench
from hpo.training.methods import select_parameters
from hpo.training.out_of_memory import is_out_of_memory
from hpo.training.precision import Measurement, Precision, measure

MEASURED_ROWS = 16


def measured_precision(bench: Bench, max_length: int) -> Measurement:
    """Time training of all weights in both precisions, on fewer rows where memory is short, and choose.

    Where not even one row fits, because no trial trains all weights, nothing is measured and fp32 is chosen.

    Args:
        bench: idle; its model keeps no trace of it.
        max_length: tokens after which the texts are cut.

    Raises:
        ModelError: the model cannot read as many tokens.
    """
    rows = MEASURED_ROWS
    while rows:
        try:
            return _measured(bench, max_length, rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Not in the handler: as long as the error lives, so do its frames and their tensors.
        bench.model.network.zero_grad(set_to_none=True)
        rows //= 2
    asked = bench.config.compute.precision
    precision: Precision = "fp32" if asked == "auto" else asked
    return Measurement(fp32_seconds=0.0, bf16_seconds=0.0, difference=0.0, precision=precision)


def _measured(bench: Bench, max_length: int, rows: int) -> Measurement:
    split = bench.tokenized(max_length).train
    # Not simply the first: a file may be in the order of its texts' lengths.
    chosen = stratified_part(bench.train_labels, rows, bench.config.seed)
    batch = collate(split, chosen, bench.model.pad_id)
    labels = batch.labels.to(bench.device)
    network = bench.model.network
    bench.model.reset(0)
    select_parameters(network, bench.model.fresh, Hyperparameters(method="full"))
    # Without dropout, so that the logits of both precisions can be compared.
    network.eval()

    def step(precision: Precision) -> torch.Tensor:
        logits = bench.model.logits(batch, precision)
        bench.task.loss(logits, labels).backward()  # type: ignore[no-untyped-call]
        network.zero_grad(set_to_none=True)
        return logits.detach()

    asked = bench.config.compute.precision
    return measure(step, batch.rows, bench.device, None if asked == "auto" else asked)
