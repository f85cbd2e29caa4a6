import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.model.methods import LayerStack, heights
from hpo.training.optimizers import parameter_groups, rate_factors
from tests.model.architectures import ARCHITECTURES, tiny_network

DECAY = 0.5
# By the beginnings of names, of models with three layers; the first that fits.
KNOWN_FACTORS = {
    "bert": {
        "bert.embeddings.": DECAY**4,
        "bert.encoder.layer.0.": DECAY**3,
        "bert.encoder.layer.1.": DECAY**2,
        "bert.encoder.layer.2.": DECAY,
        "bert.pooler.": 1,
        "classifier.": 1,
    },
    "roberta": {"roberta.embeddings.": DECAY**4, "roberta.encoder.layer.0.": DECAY**3, "classifier.": 1},
    "distilbert": {"distilbert.embeddings.": DECAY**4, "pre_classifier.": 1},
    "deberta_v2": {
        "deberta.embeddings.": DECAY**4,
        "deberta.encoder.layer.2.": DECAY,
        "deberta.encoder.rel_embeddings.": DECAY**4,
        "pooler.": 1,
    },
    "deberta_v3": {
        "deberta.encoder.layer.0.": DECAY**3,
        "deberta.encoder.rel_embeddings.": DECAY**4,
        "deberta.encoder.LayerNorm.": DECAY**4,
        "deberta.encoder.conv.": DECAY**4,
        "pooler.": 1,
    },
    "mpnet": {"mpnet.encoder.layer.2.": DECAY, "mpnet.encoder.relative_attention_bias.": DECAY**4, "classifier.": 1},
    "modernbert": {"model.embeddings.": DECAY**4, "model.layers.0.": DECAY**3, "model.final_norm.": 1, "head.": 1},
    "llama": {
        "model.embed_tokens.": DECAY**4,
        "model.layers.0.": DECAY**3,
        "model.layers.1.": DECAY**2,
        "model.layers.2.": DECAY,
        "model.norm.": 1,
        "score.": 1,
    },
    "gpt2": {"transformer.wte.": DECAY**4, "transformer.wpe.": DECAY**4, "transformer.h.2.": DECAY, "score.": 1},
}


def names_of(network) -> list[str]:
    return [name for name, _ in network.named_parameters()]


@pytest.mark.parametrize("name", KNOWN_FACTORS)
def test_rates_decay_going_down_from_the_head(name):
    network = tiny_network(name)
    factors = rate_factors(network, names_of(network), DECAY)
    assert factors.keys() == set(names_of(network))
    for beginning, factor in KNOWN_FACTORS[name].items():
        found = {name: known for name, known in factors.items() if name.startswith(beginning)}
        assert set(found.values()) == {factor}, beginning


# What a model that has only its layers pretrained draws anew, by the beginnings of names; a pooler where it has one.
DRAWN_ANEW = {"bert": ("bert.pooler.", "classifier."), "deberta_v3": ("pooler.", "classifier."), "llama": ("score.",)}


@pytest.mark.parametrize("name", DRAWN_ANEW)
def test_what_is_drawn_anew_has_a_factor_of_its_own_on_top_of_the_layers(name):
    network = tiny_network(name)
    fresh = {one for one in names_of(network) if one.startswith(DRAWN_ANEW[name])}
    factors = rate_factors(network, names_of(network), DECAY, fresh, 10.0)
    assert {factors[one] for one in fresh} == {10.0}
    plain = rate_factors(network, names_of(network), DECAY)
    assert {one for one in factors if factors[one] != plain[one]} == fresh


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_without_decay_every_factor_is_exactly_one(name):
    network = tiny_network(name)
    assert set(rate_factors(network, names_of(network), 1.0).values()) == {1.0}


NETWORKS = {name: tiny_network(name) for name in ("bert", "llama")}


@given(
    name=st.sampled_from(sorted(NETWORKS)), decay=st.floats(0.01, 1.0), trained=st.sets(st.integers(0, 60), min_size=1)
)
def test_every_trained_parameter_is_in_one_group_of_its_rate(name, decay, trained):
    network = NETWORKS[name]
    named = list(network.named_parameters())
    parameters = dict(named[number % len(named)] for number in trained)
    factors = rate_factors(network, parameters, decay)
    groups = parameter_groups(network, parameters, factors)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in parameters.values())
    factor_of = {id(parameter): factors[name] for name, parameter in parameters.items()}
    for group in groups:
        assert {factor_of[id(parameter)] for parameter in group["params"]} == {group["rate_factor"]}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hidden_are_the_matrices_of_the_layers(name):
    network = tiny_network(name)
    parameters = dict(network.named_parameters())
    groups = parameter_groups(network, parameters, dict.fromkeys(parameters, 1.0))
    assert [group["hidden"] for group in groups] == [False, True]
    hidden = {id(parameter) for parameter in groups[1]["params"]}
    height = heights(network)
    for its_name, parameter in parameters.items():
        assert (id(parameter) in hidden) == (parameter.ndim == 2 and height[its_name] in (1, 2, 3)), its_name


def test_layers_that_were_cut_off_are_not_counted():
    network = tiny_network("llama")
    LayerStack(network).keep(1)
    assert set(heights(network).values()) == {0, 1, 2}
    factors = rate_factors(network, names_of(network), DECAY)
    assert factors["model.embed_tokens.weight"] == DECAY**2
    assert factors["model.layers.0.mlp.up_proj.weight"] == DECAY
