"""Names of PEFT: translated to hyperparameters of LoRA, or refused with a reason."""

from typing import Any

import pytest
from peft import LoraConfig

from tests.config.translated import refusal, space


def test_a_complete_configuration_of_peft_is_translated() -> None:
    written = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="SEQ_CLS", peft_type="LORA").to_dict()
    values = {name: sorted(value) if isinstance(value, set) else value for name, value in written.items()}
    read = space({name: {"value": value} for name, value in (values | {"peft_type": "LORA"}).items()})
    made = read.hyperparameters(read.default_values())
    assert (made.method, made.lora_rank, made.lora_alpha, made.lora_targets) == ("lora", 4, 8.0, "q_proj")
    assert (made.lora_dropout, made.lora_scaling) == (0.0, "standard")


def test_names_of_peft_are_translated_and_imply_method_lora() -> None:
    read = space(
        {
            "lora_r": {"values": [4, 8]},
            "lora-alpha": {"value": 16},
            "target_modules": {"values": ["all", ["q_proj", "v_proj"]]},
            "use_rslora": {"value": True},
        }
    )
    assert read == space(
        {
            "lora_rank": {"values": [4, 8]},
            "lora_alpha": {"value": 16},
            "lora_targets": {"values": ["all-linear", "q_proj,v_proj"]},
            "lora_scaling": {"value": "rslora"},
            "method": {"value": "lora"},
        }
    )
    assert read.notes == (
        "lora_r is taken for lora_rank.",
        "lora-alpha is taken for lora_alpha.",
        "target_modules is taken for lora_targets.",
        "lora_targets all is taken for all-linear.",
        "use_rslora is taken for lora_scaling.",
        "lora_scaling true is taken for rslora.",
        "lora_r, lora-alpha, target_modules and use_rslora are of LoRA, so method is lora.",
    )
    assert space({"lora_rank": {"value": 4}}).notes == ("lora_rank is of LoRA, so method is lora.",)
    assert "leave lora_rank out" in refusal({"lora_rank": {"value": 4}, "method": {"value": "full"}})


def test_a_nested_adapter_is_flattened_and_its_alpha_is_not_that_of_rmsprop() -> None:
    nested = {"lora": {"parameters": {"r": {"value": 8}, "alpha": {"value": 16}, "dropout": {"value": 0.1}}}}
    made = space(nested).hyperparameters(space(nested).default_values())
    assert (made.method, made.lora_rank, made.lora_alpha, made.lora_dropout) == ("lora", 8, 16.0, 0.1)
    assert (made.alpha, made.dropout) == (None, None)


def test_a_list_of_modules_is_a_single_value() -> None:
    assert space({"target_modules": ["q_proj", "v_proj"]}) == space({"lora_targets": {"value": "q_proj,v_proj"}})
    assert space({"lora_targets": ["mlp", "attention"]}) == space({"lora_targets": {"values": ["mlp", "attention"]}})


@pytest.mark.parametrize(
    ("switch", "method", "rank"),
    [
        ({"value": True}, {"value": "lora"}, {"values": [4, 8]}),
        ({"values": [True, False]}, {"values": ["lora", "full"]}, {"values": [4, 8], "when": {"method": ["lora"]}}),
        ({"value": False}, {"value": "full"}, None),
    ],
)
def test_a_switch_for_lora_sets_the_method(switch: dict[str, Any], method: Any, rank: dict[str, Any] | None) -> None:
    ours = {"method": method} | ({"lora_rank": rank} if rank else {})
    assert space({"lora_r": {"values": [4, 8]}, "use_peft": switch}).to_mapping() == space(ours).to_mapping()


def test_settings_of_peft_without_effect_are_left_out_and_others_refused_with_a_reason() -> None:
    usual = {
        "init_lora_weights": True, "modules_to_save": ["classifier", "score"], "bias": "none", "rank_pattern": {},
        "task_type": "SEQ_CLS", "use_dora": False,
    }  # fmt: skip
    read = space({"r": {"value": 8}} | {name: {"value": value} for name, value in usual.items()})
    assert read.parameters == space({"lora_rank": {"value": 8}}).parameters
    for name in usual:
        assert name in read.notes[-1]
    other = {"init_lora_weights": "pissa", "modules_to_save": ["lm_head"], "bias": "all", "use_dora": True}
    other |= {"dpo.beta": 0.1}
    said = refusal({"r": {"value": 8}} | {name: {"value": value} for name, value in other.items()})
    for name, reason in {
        "init_lora_weights": "LoRA begins at no change",
        "modules_to_save": "beside LoRA the head trains",
        "bias": "no biases train",
        "use_dora": "DoRA and other variants of LoRA are not there",
        "dpo.beta": "preference tuning, such as DPO",
    }.items():
        assert f"{name}: {reason}" in said
