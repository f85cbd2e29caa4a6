"""A gang's checkpoints: rank 0 writes them, with the random state of each rank, and all go on from the same one."""

import logging

from hpo.distributed.rank_group import RankGroup
from hpo.training.checkpoints import Checkpoints, State
from hpo.training.optimizer_step import OptimizerStep
from hpo.training.run_state import RunState

logger = logging.getLogger(__name__)


def save_of_gang(
    rank_group: RankGroup,
    checkpoints: Checkpoints,
    place: RunState,
    training: OptimizerStep,
    micro_batch_size: int | None,
) -> None:
    """Write a checkpoint: between two steps, when all that was reported has been told.

    Args:
        gang: each rank of which is to call this.
        checkpoints: the trial's.
        place: where it stands, with its seconds up to now.
        training: in which it is.
        rows_at_once: what its batches came to.
    """
    of_ranks = rank_group.all_gather(training.model.random.current())
    if rank_group.is_rank_0:
        state = {"seen": place.seen, "place": place.to_state(), "training": training.state(), "random": of_ranks}
        checkpoints.save({**state, "rows_at_once": micro_batch_size}, place.seconds)


def load_of_gang(rank_group: RankGroup, checkpoints: Checkpoints, trial: int) -> State | None:
    """Return the checkpoint that all ranks can go on from; None where there is none."""
    # Ranks of one machine may fetch it to one folder.
    state = rank_group.in_turns(checkpoints.load)
    seen = rank_group.all_gather(None if state is None else state["seen"])
    if any(one != seen[0] for one in seen):
        logger.warning(
            "Trial %d begins anew: not all its ranks read the same checkpoint; let store.files be a folder that they "
            "share, or a URL.",
            trial,
        )
        return None
    return state
