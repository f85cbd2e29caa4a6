"""Automatic space: the shipped space that suits a model, by its kind and size as its config.json says."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

AUTO = "auto"
SMALL, LARGE = 30e6, 1e9
"""Parameters below which an encoder is small, and from which on a full fine-tune of it is rarely affordable."""
ENCODERS = (
    "big_bird", "canine", "data2vec-text", "electra", "ernie", "ernie_m", "esm", "esmc", "fnet", "funnel", "gte",
    "jina_embeddings_v3", "layoutlm", "longformer", "luke", "mpnet", "mra", "nystromformer", "perceiver", "reformer",
    "roformer", "splinter", "tapas", "xlm", "xlnet", "xmod", "yoso",
)  # fmt: skip
"""Types of encoders, other than those with `bert` in their name."""
# What a config calls width, width of the inner layers, and numbers of layers.
WIDTH = ("hidden_size", "d_model", "dim")
INNER = ("intermediate_size", "encoder_ffn_dim", "d_ff", "d_inner", "hidden_dim")
LAYERS = ("num_hidden_layers", "encoder_layers", "num_layers", "n_layer", "n_layers")
DECODER_LAYERS = ("num_decoder_layers", "decoder_layers")

Config = Mapping[str, Any]


def space_for(model: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name of the shipped space that suits a model, and a sentence that says which and why.

    Args:
        model: what stands under `model:` in a study file; `name`, `revision` and `gguf_file` are read.
    """
    name, why = _choice(model)
    return name, f"Space auto is {name}, since {why}; space: NAME takes another."


def _choice(model: Mapping[str, Any]) -> tuple[str, str]:
    if model.get("gguf_file"):
        return "decoder_lora", "the model is a GGUF file, as decoders are"
    try:
        config = _read_config(str(model["name"]), model.get("revision"))
    except (OSError, ValueError):
        return "encoder", f"config.json of {model['name']} cannot be read and an encoder of usual size is assumed"
    if is_decoder(config):
        return "decoder_lora", "the model is a decoder"
    parameters = parameters_of(config)
    size = "unknown size" if parameters is None else f"about {parameters / 1e6:,.0f}M parameters"
    fitting = "encoder"
    if parameters is not None:
        fitting = "encoder_small" if parameters < SMALL else "encoder" if parameters < LARGE else "encoder_lora"
    return fitting, f"the model is an encoder of {size}"


@cache
def _read_config(name: str, revision: str | None) -> Config:
    """Return a model's config.json: of a folder, or of the hub, where this machine has no copy of it yet.

    Raises:
        OSError, ValueError: there is none, or it is no mapping in JSON.
    """
    path = Path(name).expanduser() / "config.json"
    if not path.parent.is_dir():
        path = _copy_of_hub(name, revision)
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no mapping.")
    return config


def _copy_of_hub(name: str, revision: str | None) -> Path:
    import huggingface_hub as hub

    kept = hub.try_to_load_from_cache(name, "config.json", revision=revision)
    if isinstance(kept, str):
        return Path(kept)
    hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    return Path(hub.hf_hub_download(name, "config.json", revision=revision))


def is_decoder(config: Config) -> bool:
    """Return whether a model is a decoder: neither an encoder nor one with a decoder behind it."""
    kind, classes = str(config.get("model_type", "")), config.get("architectures") or ()
    if config.get("is_encoder_decoder"):
        return False
    if config.get("is_decoder") or kind.endswith("decoder") or any(name.endswith("ForCausalLM") for name in classes):
        return True
    masked = any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in classes)
    return not (masked or "bert" in kind or kind in ENCODERS)


def parameters_of(config: Config) -> float | None:
    """Return about how many parameters a model has, those of embeddings and layers; None where its config is unlike."""
    width, layers, inner = (_first(config, names) for names in (WIDTH, LAYERS, INNER))
    if width is None or layers is None:
        return None
    # Layers that share their weights count once, such as ALBERT's.
    layers = min(layers, config.get("num_hidden_groups", layers)) + (_first(config, DECODER_LAYERS) or 0)
    embeddings = config.get("vocab_size", 0) * config.get("embedding_size", width)
    return float(embeddings + layers * (4 * width**2 + 2 * width * (inner or 4 * width)))


def _first(config: Config, names: Sequence[str]) -> int | None:
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)
