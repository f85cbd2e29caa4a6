"""Seeds of samplers and trials: derived from the study's seed, equal in every process and version."""

import optuna
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import BaseSampler, RandomSampler

from hpo.search.samplers import PerTrialSampler, derived_seed


@given(seed=st.integers(0, 2**31 - 1), trial=st.integers(0, 10**6))
def test_a_derived_seed_is_reproducible_and_differs_by_name_and_number(seed: int, trial: int) -> None:
    mine = derived_seed(seed, "trial", trial)
    assert 0 <= mine < 2**31
    assert mine == derived_seed(seed, "trial", trial)
    assert mine != derived_seed(seed, "trial", trial + 1)
    assert mine != derived_seed(seed, "sampler", trial)


def test_a_derived_seed_is_the_same_in_every_version() -> None:
    """The values are derived from SHA-256 over `0/trial/N`; other values would change every study that resumes."""
    assert [derived_seed(0, "trial", number) for number in range(3)] == [1725501518, 1021735874, 597998264]


def test_a_proposal_does_not_depend_on_the_sampler_object_of_earlier_trials() -> None:
    """A used sampler and a new one propose the same for trial 2."""
    distribution = {"x": optuna.distributions.FloatDistribution(0, 1)}

    def new() -> BaseSampler:
        return PerTrialSampler(lambda seed: RandomSampler(seed=seed), study_seed=3)

    def third(*, restart: bool) -> float:
        study = optuna.create_study(sampler=new())
        for _ in range(2):
            study.tell(study.ask(distribution), 0.5)
        if restart:
            study.sampler = new()
        x: float = study.ask(distribution).params["x"]
        return x

    assert third(restart=True) == third(restart=False)
