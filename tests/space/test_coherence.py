"""A space is refused as it is read exactly where a trial of it could not be trained; each refusal in one sentence."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.config.hyperparameters import REFUSALS, Hyperparameters
from hpo.config.parsing import parse_yaml
from hpo.errors import SpaceError
from hpo.space.search_space import SearchSpace
from tests.space.random_spaces import NAMES


def space(text: str) -> SearchSpace:
    return SearchSpace.from_mapping(parse_yaml(text, "the test"), name="s")


FREE = "schedule_free_adamw"
FORBIDDEN = [
    # space, how the sentence begins
    (
        "{optimizer: {values: [adamw, schedule_free_adamw]}, schedule: {values: [linear, constant]}}",
        "Space s: 'optimizer' is schedule_free_adamw, 'schedule' is linear: it averages its weights",
    ),
    (
        "{optimizer: {value: schedule_free_adamw}, l1_form: {value: proximal}, l1_strength: {min: 0.0, max: 0.1}}",
        "Space s: 'optimizer' is schedule_free_adamw, 'l1_strength' is 0.1, 'l1_form' is proximal: ",
    ),
    (
        "{optimizer: {values: [adamw, schedule_free_adamw]}, beta1: {min: 0.0, max: 0.9}}",
        "Space s: 'optimizer' is schedule_free_adamw, 'beta1' is 0.0: its average",
    ),
    (
        "{schedule: {values: [linear, exponential]}, final_rate_ratio: {min: 0.0, max: 0.5}}",
        "Space s: 'schedule' is exponential, 'final_rate_ratio' is 0.0: such a rate never reaches zero; give a",
    ),
    (
        "{method: {values: [full, top_layers]}, kept_layers: {min: 1, max: 6}}",
        "Space s: 'method' is top_layers, 'trained_layers' is 2, 'kept_layers' is 1: no more layers",
    ),
    (
        """{method: {value: top_layers}, kept_layers: {values: [3, null]}, trained_layers: {distribution: q_uniform,
            min: 1, max: 5, q: 2}}""",
        "Space s: 'method' is top_layers, 'trained_layers' is 5, 'kept_layers' is 3: no more layers",
    ),
    (
        "{method: {value: top_layers}, kept_layers: {value: 1}, trained_layers: {value: null}}",
        "Space s: 'method' is top_layers, 'trained_layers' is 2, 'kept_layers' is 1: no more layers",
    ),
    (
        "{method: {values: [full, lora]}, regularize_towards: {values: [zero, pretrained]}}",
        "Space s: 'method' is lora, 'regularize_towards' is pretrained: an adapter begins at no change",
    ),
    # Only where the middle of a range makes the other active.
    (
        """{epochs: {min: 1, max: 5}, kept_layers: {value: 1, when: {epochs: [3]}}, method: {value: top_layers},
            trained_layers: {value: 2}}""",
        "Space s: 'method' is top_layers, 'trained_layers' is 2, 'kept_layers' is 1: no more layers",
    ),
    # Only where the middle of a range leaves the other out.
    (
        """{epochs: {min: 1, max: 3}, optimizer: {value: schedule_free_adamw, when: {epochs: [2]}},
            schedule: {value: linear}}""",
        "Space s: 'optimizer' is schedule_free_adamw, 'schedule' is linear: ",
    ),
    (
        """{epochs: {min: 1, max: 3}, trained_layers: {value: 1, when: {epochs: [1, 3]}}, method: {value: top_layers},
            kept_layers: {value: 1}}""",
        "Space s: 'method' is top_layers, 'trained_layers' is 2, 'kept_layers' is 1: no more layers",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), FORBIDDEN)
def test_what_cannot_be_together_is_refused_as_the_space_is_read(text: str, sentence: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space(text)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_every_refusal_is_shown_by_one_of_them() -> None:
    shown = []
    for text, _ in FORBIDDEN:
        with pytest.raises(SpaceError) as caught:
            space(text)
        shown.append(str(caught.value))
    assert [one.reason for one in REFUSALS if not any(sentence.endswith(one.reason) for sentence in shown)] == []


@pytest.mark.parametrize(
    "text",
    [
        """{optimizer: {values: [adamw, schedule_free_adamw]},
            schedule: {values: [linear, cosine], when: {optimizer: [adamw]}}}""",
        "{optimizer: {values: [adamw, schedule_free_adamw]}, l1_strength: {min: 0.0, max: 0.1}}",
        "{optimizer: {value: schedule_free_adamw}, l1_form: {value: proximal}}",
        """{schedule: {values: [linear, exponential]},
            final_rate_ratio: {min: 0.0, max: 0.5, when: {schedule: [linear]}}}""",
        "{method: {values: [full, head]}, kept_layers: {min: 1, max: 6}}",
        "{method: {value: top_layers}, kept_layers: {min: 3, max: 6}, trained_layers: {min: 1, max: 3}}",
        """{kept_layers: {values: [1, 6]}, method: {values: [top_layers, full], when: {kept_layers: [6]}}}""",
        """{method: {values: [full, lora]}, lora_rank: {values: [4, 8], when: {method: [lora]}},
            regularize_towards: {values: [zero, pretrained], when: {method: [full]}}}""",
        # What a space leaves out follows the optimizer.
        """{optimizer: {values: [adamw, schedule_free_adamw]},
            final_rate_ratio: {min: 0.0, max: 0.5, when: {optimizer: [adamw]}}}""",
        # Active only where its grandparent makes it mean something.
        """{optimizer: {values: [adamw, momentum]}, schedule: {values: [step], when: {optimizer: [momentum]}},
            momentum: {value: 0.9, when: {schedule: [step]}}}""",
    ],
)
def test_a_space_in_which_it_cannot_be_active_is_none_of_it(text: str) -> None:
    assert space(text).parameters


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        # The schedule is not in the space, so the line is about what decides it.
        (
            "{optimizer: {values: [adamw, sgd, schedule_free_adamw]}, final_rate_ratio: {min: 0.0, max: 0.5}}",
            "but here it may be other; write `when: {optimizer: [adamw, sgd]}` below final_rate_ratio.",
        ),
        (
            "{optimizer: {value: schedule_free_adamw}, final_rate_ratio: {min: 0.0, max: 0.5}}",
            "but here it is constant; leave final_rate_ratio out.",
        ),
        (
            "{optimizer: {values: [adamw, sgd]}, momentum: {min: 0.0, max: 0.5}}",
            "but here it is adamw or sgd; leave momentum out.",
        ),
        (
            """{optimizer: {values: [adamw, schedule_free_adamw]}, schedule: {values: [constant, cosine],
                when: {optimizer: [adamw]}}, final_rate_ratio: {min: 0.0, max: 0.5, when: {optimizer: [adamw]}}}""",
            "write `when: {optimizer: [adamw], schedule: [cosine]}` below final_rate_ratio.",
        ),
    ],
)
def test_the_line_to_write_is_shown_also_where_the_optimizer_decides(text: str, sentence: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space(text)
    assert sentence in str(caught.value)


# Against trying every trial

LISTS: dict[str, list[Any]] = {
    "optimizer": ["adamw", "momentum", FREE],
    "schedule": ["linear", "constant", "exponential"],
    "method": ["full", "top_layers", "lora"],
    "regularize_towards": ["zero", "pretrained"],
    "l1_form": ["penalty", "proximal"],
    "l1_strength": [0.0, 0.1],
    "final_rate_ratio": [0.0, 0.5],
    "trained_layers": [1, 3],
    "kept_layers": [None, 1, 2, 4],
    "momentum": [0.0, 0.5],
    "beta1": [0.0, 0.5],
    "epochs": [1, 2, 3],
}


@st.composite
def careless_mappings(draw: st.DrawFn) -> dict[str, Any]:
    """A small space of lists under conditions that may or may not be those it needs."""
    names = draw(st.lists(st.sampled_from(list(LISTS)), min_size=1, max_size=5, unique=True))
    specs: dict[str, Any] = {}
    for name in names:
        specs[name] = {"values": draw(_some(LISTS[name]))}
        parents = draw(st.lists(st.sampled_from(list(specs)), max_size=2, unique=True))
        when = {parent: draw(_some(specs[parent]["values"])) for parent in parents if parent != name}
        specs[name] |= {"when": when} if when else {}
    return specs


def _some(values: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)


def every_trial(specs: dict[str, Any]) -> list[dict[str, Any]]:
    trials = []
    for values in product(*(spec["values"] for spec in specs.values())):
        trial: dict[str, Any] = {}
        for (name, spec), value in zip(specs.items(), values, strict=True):
            when = spec.get("when", {})
            if all(parent in trial and trial[parent] in wanted for parent, wanted in when.items()):
                trial[name] = value
        trials.append(trial)
    return trials


def can_be_trained(trial: dict[str, Any]) -> bool:
    try:
        Hyperparameters(**trial)
    except ValueError:
        return False
    return True


@given(mapping=careless_mappings())
@settings(max_examples=300, deadline=None)
def test_a_space_is_refused_where_some_trial_of_it_is_and_nowhere_else(mapping: dict[str, Any]) -> None:
    refused = not all(map(can_be_trained, every_trial(mapping)))
    try:
        SearchSpace.from_mapping(mapping, name="s")
    except SpaceError:
        assert refused
    else:
        assert not refused


# Defaults and rates where the optimizer decides


@pytest.mark.parametrize(
    ("text", "name", "default"),
    [
        ("l2_form: {values: [coupled, decoupled]}", "l2_form", "decoupled"),
        ("{optimizer: {values: [sgd, adamw]}, l2_form: {values: [coupled, decoupled]}}", "l2_form", "decoupled"),
        ("{optimizer: {values: [sgd, adamw], default: sgd}, l2_form: {values: [decoupled, coupled]}}", "l2_form",
         "coupled"),
        # Where it is active, not where it is not.
        (
            "{optimizer: {values: [adamw, sgd]}, l2_form: {values: [decoupled, coupled], when: {optimizer: [sgd]}}}",
            "l2_form",
            "coupled",
        ),
        ("{optimizer: {value: schedule_free_adamw}, l1_form: {values: [proximal, penalty]}}", "l1_form", "penalty"),
        ("schedule: {values: [cosine, linear]}", "schedule", "linear"),
        ("schedule: {values: [cosine, step]}", "schedule", "cosine"),  # linear is not among them
        ("{schedule: {values: [exponential, cosine], default: cosine}, final_rate_ratio: {values: [0.5, 0.25, 0.125]}}",
         "final_rate_ratio", 0.25),  # no usual one is among them: the middle
        ("{schedule: {values: [exponential, cosine], default: exponential}, final_rate_ratio: {values: [0.5, 0.01]}}",
         "final_rate_ratio", 0.01),
        ("final_rate_ratio: {min: 0.0, max: 0.5}", "final_rate_ratio", 0.0),  # linear's
        ("{optimizer: {values: [sgd, nesterov, muon], default: muon}, momentum: {min: 0.5, max: 0.99, when: "
         "{optimizer: [nesterov, muon]}}}", "momentum", 0.95),
    ],
)  # fmt: skip
def test_the_default_is_the_usual_value_for_the_spaces_default_optimizer(text: str, name: str, default: object) -> None:
    defaults = {parameter.name: parameter.default for parameter in space(text).parameters}
    assert defaults[name] == default


@pytest.mark.parametrize("optimizer", NAMES["optimizer"])
def test_a_rate_may_be_relative_to_any_optimizer(optimizer: str) -> None:
    rates = {name: 1e-5 * (index + 1) for index, name in enumerate(NAMES["optimizer"])}
    relative = SearchSpace.from_mapping(
        {
            "optimizer": {"values": list(NAMES["optimizer"])},
            "learning_rate": {"min": 0.5, "max": 2.0, "relative_to": rates},
        },
        name="s",
    )
    trained = relative.hyperparameters({"optimizer": optimizer, "learning_rate": 2.0})
    assert trained.learning_rate == pytest.approx(2 * rates[optimizer], rel=1e-12)
    assert relative.largest("learning_rate") == pytest.approx(2 * 1e-5 * len(rates), rel=1e-12)


def test_a_rate_may_be_relative_to_what_the_optimizer_decides() -> None:
    relative = space("""
    optimizer: {values: [sgd, adamw]}
    learning_rate: {min: 0.5, max: 2.0, relative_to: {l2_form: {coupled: 1e-2, decoupled: 1e-4}}}
    """)
    assert relative.hyperparameters({"optimizer": "sgd", "learning_rate": 1.0}).learning_rate == 1e-2
    assert relative.hyperparameters({"optimizer": "adamw", "learning_rate": 1.0}).learning_rate == 1e-4


def test_an_optimizer_that_is_never_there_together_with_the_rate_needs_no_factor() -> None:
    assert space("""
    optimizer: {values: [sgd, adamw]}
    learning_rate: {min: 0.5, max: 2.0, relative_to: {adamw: 1e-4}, when: {optimizer: [adamw]}}
    """).largest("learning_rate") == pytest.approx(2e-4)
