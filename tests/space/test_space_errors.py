"""Every space that cannot be is refused by a sentence that says the rule, the value and what to do."""

import pytest

from hpo.config.parsing import parse_yaml
from hpo.errors import SpaceError
from hpo.space.search_space import SearchSpace

REFUSED = {
    # names and shape
    "{}": "Space s has no parameters",
    "lerning_rate: {value: 1}": "unknown hyperparameter 'lerning_rate'. Did you mean 'learning_rate'?",
    "1: {value: 1}": "unknown hyperparameter 1",
    "epochs: 3": "for a constant write `value: 3`",
    "epochs: {mxa: 3, min: 1}": "unknown key 'mxa'. Did you mean 'max'?",
    # distributions
    "epochs: {}": "has no values; give it `value:`, `values:`, or `min:` and `max:`",
    "epochs: {default: 3}": "has no values",
    "epochs: {min: 1}": "is uniform, which is made of min and max, but has min;",
    "epochs: {value: 1, max: 3}": "is constant, which is made of value, but has value and max",
    "epochs: {values: [1, 2], min: 1}": "is categorical, which is made of values, but has values and min",
    "epochs: {distribution: q_uniform, min: 1, max: 3}": "is made of min and max and q, but has min and max",
    "dropout: {min: 0.0, max: 0.5, q: 0.1}": "is uniform, which is made of min and max, but has min and max and q",
    "epochs: {distribution: constant}": "but has none of them",
    "epochs: {distribution: int_unifrom, min: 1, max: 3}": "distribution 'int_unifrom'. Did you mean 'int_uniform'?",
    "epochs: {distribution: uniform, mu: 1}": "unknown key 'mu'",
    "epochs: {distribution: [uniform], min: 1, max: 3}": "unknown distribution ['uniform']",
    "l2_strength: {distribution: log_uniform, min: -9, max: -2}": "write `distribution: log_uniform_values`",
    # values against the hyperparameter
    "epochs: {value: 0}": "'epochs' is 0, but it should be greater than or equal to 1",
    "epochs: {value: '3'}": "'epochs' is '3', but it should be a valid integer",
    "epochs: {value: true}": "'epochs' is 'true', but it should be a valid integer",
    "epochs: {value: null}": "'epochs' is None, but it should be a valid integer",
    "optimizer: {values: [adamw, adamv]}": "'optimizer' cannot be 'adamv'. Did you mean 'adam' or 'adamw'?",
    "optimizer: {values: [{a: 1}]}": "'optimizer' cannot be {'a': 1}",
    "epochs: {values: []}": "values must be a list of at least one value, but is []",
    "epochs: {values: 3}": "values must be a list of at least one value, but is 3",
    "dropout: {values: [0, 0.1, 0.0]}": "values has 0 twice; leave one out",
    # ranges
    "dropout: {min: 0.0, max: 1.0}": "Space s, dropout, max: 'dropout' is 1.0, but it should be less than 1",
    "epochs: {min: 0, max: 3}": "Space s, epochs, min: 'epochs' is 0, but it should be greater than or equal to 1",
    "l2_strength: {min: 0.0, max: .inf}": "'l2_strength' is inf, but it should be a finite number",
    "optimizer: {min: 1, max: 3}": "'optimizer' cannot be 1",
    "dropout: {min: null, max: 0.3}": "min and max must be numbers, but are null and 0.3",
    "epochs: {min: 3, max: 1}": "min must be below max, but they are 3 and 1",
    "epochs: {min: 3, max: 3}": "for a single value write `value: 3`",
    "learning_rate: {min: 1, max: 1e-5}": "they are 1 and 1e-05; swap them: `min: 1e-05` and `max: 1`.",
    "epochs: {min: 1.0, max: 3.0}": "'epochs' is 1.0, but it should be a valid integer",
    "epochs: {distribution: uniform, min: 1, max: 3}": "'epochs' takes whole numbers; write `distribution: int",
    "epochs: {distribution: log_uniform_values, min: 1, max: 3}": "'epochs' takes whole numbers",
    "dropout: {distribution: int_uniform, min: 0.0, max: 0.5}": "int_uniform needs a whole min and max, but has 0 and",
    "l1_strength: {distribution: log_uniform_values, min: 0, max: 1}": "needs a min above 0, but min is 0",
    "epochs: {distribution: q_uniform, min: 1, max: 9, q: 0.5}": "'epochs' takes whole numbers, so q must be one",
    "dropout: {distribution: q_uniform, min: 0, max: 0.5, q: 0}": "q must be a number above 0 and at most max - min",
    "dropout: {distribution: q_uniform, min: 0, max: 0.5, q: 0.6}": "at most max - min, but is 0.6",
    "dropout: {distribution: q_uniform, min: 0.1, max: 0.55, q: 0.2}": (
        "steps of 0.2 from 0.1 do not meet max, 0.55; write `max: 0.5`, the last one below it."
    ),
    "epochs: {distribution: q_uniform, min: 1, max: 10, q: 4}": "do not meet max, 10; write `max: 9`",
    "dropout: {distribution: q_uniform, min: 0, max: 0.5, q: a}": "q must be a number above 0",
    # defaults
    "epochs: {min: 1, max: 3, default: 4}": "values, 1 … 3, whole numbers; set its `default` to one of them too",
    "epochs: {min: 1, max: 3, default: 2.5}": "Space s, epochs, default: 'epochs' is 2.5",
    "epochs: {value: 1, default: 1}": "is a constant and needs no default",
    # sources
    "epochs: {value: 1, source: 3}": "source is 3, but must be one line of text that says where the range comes from",
    "epochs: {value: 1, source: [a paper]}": "source is ['a paper'], but must be one line of text",
    'epochs: {value: 1, source: "a paper\\nand another"}': "but must be one line of text",
    "epochs: {value: 1, sorce: a paper}": "unknown key 'sorce'. Did you mean 'source'?",
    # conditions
    "epochs: {value: 1, when: [sgd]}": "when must read like {optimizer: [sgd, momentum]}, but is ['sgd']",
    "epochs: {value: 1, when: {}}": "when must read like",
    "epochs: {value: 1, when: {optimiser: [sgd]}}": "'optimiser', which is not a parameter of this space",
    "{optimizer: {value: sgd}, epochs: {value: 1, when: {optimiser: [sgd]}}}": "Did you mean 'optimizer'?",
    "{optimizer: {value: sgd}, epochs: {value: 1, when: {optimizer: sgd}}}": "{optimizer: [...]}, but has 'sgd'",
    "{optimizer: {value: sgd}, epochs: {value: 1, when: {optimizer: []}}}": "when needs a list of values",
    "{optimizer: {value: sgd}, epochs: {value: 1, when: {optimizer: [sdg]}}}": "'optimizer' cannot be 'sdg'. Did you",
    "{epochs: {min: 1, max: 3}, batch_size: {value: 8, when: {epochs: [0]}}}": "'epochs' is 0, but it should be",
    "{dropout: {min: 0.0, max: 0.3}, epochs: {value: 1, when: {dropout: [0.1]}}}": "takes any number of a range",
    "epochs: {min: 1, max: 3, when: {epochs: [1]}}": "in a circle, epochs -> epochs",
    # a circle of two, and one that hangs from it
    """{batch_size: {values: [8], when: {epochs: [1]}}, epochs: {values: [1], when: {method: [full]}},
       method: {values: [full], when: {epochs: [1]}}}""": "in a circle, epochs -> method -> epochs; take one",
    # hyperparameters that mean something only for some values of another
    "{optimizer: {values: [adamw, momentum, rmsprop, sgd]}, momentum: {min: 0.8, max: 0.9}}": (
        "Space s, momentum applies only where optimizer is momentum or nesterov or rmsprop or muon, but here it may be "
        "other; write `when: {optimizer: [momentum, rmsprop]}` below momentum."
    ),
    "{optimizer: {values: [adamw, momentum]}, momentum: {min: 0.8, max: 0.9}}": "write `when: {optimizer: [momentum]}`",
    "momentum: {min: 0.8, max: 0.9}": "but here it is adamw; leave momentum out",
    "{method: {value: full}, trained_layers: {value: 2}}": "but here it is full; leave trained_layers out",
    "{method: {value: full}, trained_layers: {value: null}}": "but here it is full; leave trained_layers out",
    "{method: {values: [full, top_layers]}, epochs: {values: [1]}, trained_layers: {value: 2, when: {epochs: [1]}}}": (
        "write `when: {epochs: [1], method: [top_layers]}` below trained_layers"
    ),
    """{method: {values: [full, head]}, optimizer: {value: momentum, when: {method: [full]}},
       momentum: {min: 0.8, max: 0.9}}""": "write `when: {optimizer: [momentum]}` below momentum",
    """{optimizer: {values: [adamw, momentum]},
       momentum: {value: 0.9, when: {optimizer: [adamw, momentum]}}}""": "write `when: {optimizer: [momentum]}`",
    # relative learning rates
    "epochs: {min: 1, max: 3, relative_to: {adamw: 1}}": "relative_to is for learning_rate only",
    "learning_rate: {min: 0.1, max: 10.0, relative_to: 3e-5}": "relative_to must read like {adamw: 3e-5, sgd: 1e-2}",
    "learning_rate: {min: 0.1, max: 10.0, relative_to: {}}": "relative_to must read like",
    "learning_rate: {min: 0.1, max: 10.0, relative_to: {admw: 1}}": "cannot be 'admw'. Did you mean 'adamw'?",
    "learning_rate: {min: 0.1, max: 10.0, relative_to: {adamw: 0}}": "relative_to adamw: 'learning_rate' is 0, but",
    "learning_rate: {min: 0.1, max: 10.0, relative_to: {adamw: '1'}}": "relative_to adamw: 'learning_rate' is '1'",
    "learning_rate: {min: 0.1, max: 10.0, relative_to: {sgd: 1}}": "no rate for optimizer adamw, which this space can",
    "{optimizer: {values: [adamw, sgd]}, learning_rate: {min: 0.1, max: 1.5, relative_to: {adamw: 1}}}": (
        "relative_to gives no rate for optimizer sgd, which this space can take; add `sgd: ...` to it."
    ),
    """{method: {values: [full, head]}, optimizer: {value: sgd, when: {method: [full]}},
        learning_rate: {min: 0.1, max: 1.5, relative_to: {sgd: 1}}}""": "no rate for optimizer adamw",
    "{method: {values: [full, head]}, learning_rate: {min: 0.1, max: 1.5, relative_to: {method: {full: 1}}}}": (
        "no rate for method head"
    ),
    "learning_rate: {min: 0.1, max: 10.0, relative_to: {batch_size: {8: 1}}}": "relative_to cannot follow 'batch_size'",
    "learning_rate: {min: 0.1, max: 10.0, relative_to: {optimiser: {adamw: 1}}}": "Did you mean 'optimizer'?",
    "learning_rate: {min: 0.1, max: 10.0, relative_to: {optimizer: {adamw: 1}, method: 2}}": (
        "relative_to needs a rate for each method, but has 2"
    ),
    "learning_rate: {min: 0.1, max: 10.0, relative_to: {optimizer: {adamw: 1}, method: {}}}": "no rate for method full",
    "learning_rate: {min: 0.1, max: 1.5, relative_to: {method: {full: 1, lora: {adamw: 4e-4}}}}": (
        "relative_to gives rates for lora and a single number for another method; give rates for each method, or a"
    ),
    "learning_rate: {min: 0.1, max: 1.5, relative_to: {method: {full: {admw: 1}}}}": "Did you mean 'adamw'?",
    """{method: {values: [full, lora]},
        learning_rate: {min: 0.1, max: 1.5, relative_to: {method: {full: {adamw: 1}, lora: {sgd: 1}}}}}""": (
        "relative_to gives no rate for optimizer adamw"
    ),
    "learning_rate: {min: 0.1, max: 1e300, relative_to: {adamw: 1e300}}": (
        "learning_rate, times its base rate: 'learning_rate' is inf"
    ),
}


@pytest.mark.parametrize(("text", "sentence"), REFUSED.items())
def test_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.from_mapping(parse_yaml(text, "the test"), name="s")
    message = str(caught.value)
    assert sentence in message
    assert message.startswith("Space s")
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "{optimizer: {value: momentum}, momentum: {min: 0.8, max: 0.9}}",
        "{optimizer: {values: [momentum, rmsprop]}, momentum: {min: 0.8, max: 0.9}}",
        "{optimizer: {values: [adam, sgd]}, beta1: {min: 0.8, max: 0.9, when: {optimizer: [adam]}}}",
        "beta1: {min: 0.8, max: 0.9}",
        "{method: {value: full}, trained_layers: {value: 2, when: {method: [top_layers]}}}",
        "{optimizer: {value: sgd}, epochs: {values: [1, 2], when: {optimizer: [sgd]}}}",
        "{epochs: {min: 1, max: 3}, batch_size: {values: [8, 16], when: {epochs: [1, 3]}}}",
        "learning_rate: {min: 0.1, max: 10.0, relative_to: {adamw: 1e-5, sgd: 1e-2}}",
    ],
)
def test_the_neighbours_of_what_is_refused_are_not(text: str) -> None:
    assert SearchSpace.from_mapping(parse_yaml(text, "the test"), name="s").parameters
