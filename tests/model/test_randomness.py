"""A trial's random state on a GPU, by a fake of its generators: only the trial's device is touched, and put back."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from hpo.model.randomness import RandomState, dropout_seed

FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


class FakeGpus:
    """Generators of two GPUs: a state is a count, and to draw raises it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.states = {FIRST: torch.tensor([10]), SECOND: torch.tensor([20])}
        self.seeded: list[tuple[torch.device, int]] = []
        self.waited: Counter[str] = Counter()
        self._current = FIRST
        patch.setattr(torch.cuda, "get_rng_state", lambda device: self.states[device].clone())
        patch.setattr(torch.cuda, "set_rng_state", self._set)
        patch.setattr(torch.cuda, "manual_seed", self._seed)
        patch.setattr(torch.cuda, "device", self._device)
        patch.setattr(torch.cuda, "synchronize", lambda *_: self.waited.update(["synchronize"]))

    def draw(self, device: torch.device) -> int:
        self.states[device] = self.states[device] + 1
        return int(self.states[device])

    def _set(self, state: torch.Tensor, device: torch.device) -> None:
        self.states[device] = state.clone()

    def _seed(self, seed: int) -> None:
        self.seeded.append((self._current, seed))
        self.states[self._current] = torch.tensor([1000 * (1 + len(self.seeded))])

    @contextmanager
    def _device(self, device: torch.device) -> Iterator[None]:
        before, self._current = self._current, device
        yield
        self._current = before


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    return FakeGpus(monkeypatch)


def test_the_outside_finds_its_state_as_it_was(gpus: FakeGpus) -> None:
    torch.manual_seed(5)
    outside = torch.get_rng_state()
    gpus.seeded.clear()
    before = {device: int(state) for device, state in gpus.states.items()}
    state = RandomState(7, SECOND)
    with state:
        gpus.draw(SECOND)
        torch.rand(3)
    assert {device: int(state) for device, state in gpus.states.items()} == before
    assert torch.equal(torch.get_rng_state(), outside)
    assert gpus.seeded == [(SECOND, dropout_seed(7, 0))], "of no other device"
    assert not gpus.waited


def test_two_trials_on_one_gpu_draw_as_if_each_were_alone(gpus: FakeGpus) -> None:
    one, other = RandomState(7, FIRST), RandomState(8, FIRST)
    drawn: dict[RandomState, list[int]] = {one: [], other: []}
    for state in (one, other, one, one, other):
        with state:
            drawn[state].append(gpus.draw(FIRST))
    assert [numbers[-1] - numbers[0] for numbers in drawn.values()] == [2, 1]
    assert drawn[one][0] != drawn[other][0]


def test_a_checkpoint_has_the_state_of_the_gpu_and_resumes_from_it_on_another(gpus: FakeGpus) -> None:
    state = RandomState(7, FIRST)
    with state:
        gpus.draw(FIRST)
        kept = state.current()
        following = gpus.draw(FIRST)
    assert len(kept) == 2, "of the CPU, and of the one GPU"
    elsewhere = RandomState(9, SECOND)
    with elsewhere:
        elsewhere.adopt([kept])
        assert gpus.draw(SECOND) == following


def test_each_rank_adopts_its_own(gpus: FakeGpus) -> None:
    kept = [[torch.get_rng_state(), torch.tensor([rank])] for rank in (100, 200)]
    for rank, expected in ((0, 101), (1, 201)):
        state = RandomState(7, FIRST, rank)
        with state:
            state.adopt(kept)
            assert gpus.draw(FIRST) == expected
    late = RandomState(7, FIRST, 2)
    with late:
        fresh = int(gpus.states[FIRST])
        late.adopt(kept)
        assert int(gpus.states[FIRST]) == fresh, "there is none of its rank"
