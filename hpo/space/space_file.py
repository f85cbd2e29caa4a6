"""Space files in YAML; those in `search_spaces/` are shipped, and found by name or by the model's kind and size."""

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hpo.config.hub import config_on_hub
from hpo.config.parsing import read_yaml_mapping
from hpo.errors import SpaceError, nearest
from hpo.space.portfolio import PORTFOLIO
from hpo.space.search_space import SearchSpace

KEYS = ("description", "parameters", PORTFOLIO)
"""Keys of a space file."""
_PACKAGE = Path(__file__).parents[1]

# Other keys of a W&B sweep file, and where they belong here.
_ELSEWHERE = {
    "method": ", it belongs under `search: {sampler: ...}` of the study file",
    "metric": ", it belongs under `task: {metric: ...}` of the study file",
    "early_terminate": ", it belongs under `search: {pruner: ...}` of the study file",
    "run_cap": ", it belongs under `budget: {trials: ...}` of the study file",
    "name": ": a space is called by its file's name",
    "program": ": hpo itself trains",
    "command": ": hpo itself trains",
}


def shipped_spaces() -> dict[str, Path]:
    """Return the shipped files by name: from the installed package, or next to it in a checkout."""
    installed = _PACKAGE / "search_spaces"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "search_spaces"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_space(name_or_path: str) -> dict[str, Any]:
    """Return the `parameters:` of a space file as written, along with its `portfolio`.

    Args:
        name_or_path: name of a shipped space, or the path of a file.

    Raises:
        SpaceError: neither of the two, or a file with keys other than `KEYS`.
        ConfigurationError: a file that cannot be read or is not YAML.
    """
    content = _read_file(name_or_path)
    return {**content["parameters"], **{key: content[key] for key in (PORTFOLIO,) if key in content}}


def space_description(name_or_path: str) -> str:
    """Return the `description:` of a space file; empty if it has none."""
    return str(_read_file(name_or_path).get("description", ""))


def load_space(name_or_path: str) -> SearchSpace:
    """Return the space of a shipped name or a file; raises as `read_space` does."""
    return SearchSpace.from_mapping(read_space(name_or_path), Path(name_or_path).stem)


def space_of(space: str | Mapping[str, Any], name: str = "of the study") -> SearchSpace:
    """Return the space that a study file names or contains (then called `name`); raises as `load_space` does."""
    if isinstance(space, str):
        return load_space(space)
    if "parameters" in space:
        raise SpaceError("In a study file hyperparameters stand right below `space:`; take `parameters:` out.")
    return SearchSpace.from_mapping(space, name)


def _read_file(name_or_path: str) -> dict[str, Any]:
    """Return the content of a space file, checked for parameters and unknown keys."""
    path = _find(name_or_path)
    content = read_yaml_mapping(path)
    foreign = [f"take {key!r} out{_ELSEWHERE[key]}" for key in content if key in _ELSEWHERE]
    if foreign:
        raise SpaceError(
            f"{path}: a space holds parameters only; {'; '.join(foreign)}. Or run the sweep itself: "
            f"hpo run {shlex.quote(str(path))} --model PATH_OR_HUB_ID --train FILE."
        )
    unknown = [key for key in content if key not in KEYS]
    if "parameters" not in content:
        hint = f", but starts with {unknown[0]!r}; indent the parameters below it" if unknown else ""
        raise SpaceError(f"{path} must hold the hyperparameters to search under `parameters:`{hint}.")
    if unknown:
        raise SpaceError(*(f"{path}: unknown key {key!r}. {nearest(str(key), KEYS)}" for key in unknown))
    if not isinstance(content["parameters"], dict):
        raise SpaceError(
            f"{path}: parameters must map hyperparameters to their values, but is {content['parameters']!r}."
        )
    return content


def _find(name_or_path: str) -> Path:
    shipped = shipped_spaces()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if not path.is_file():
        raise SpaceError(
            f"No search space {name_or_path!r}: it is neither a shipped one nor a file. "
            f"{nearest(name_or_path, shipped)}"
        )
    return path


AUTO = "auto"
SMALL, LARGE = 30e6, 1e9
"""Size below which an encoder is small, and size from which a full fine-tune is rarely affordable, in parameters."""
ENCODERS = (
    "big_bird", "canine", "data2vec-text", "electra", "ernie", "ernie_m", "esm", "esmc", "fnet", "funnel", "gte",
    "jina_embeddings_v3", "layoutlm", "longformer", "luke", "mpnet", "mra", "nystromformer", "perceiver", "reformer",
    "roformer", "splinter", "tapas", "xlm", "xlnet", "xmod", "yoso",
)  # fmt: skip
"""Types of encoders, besides those with `bert` in their name."""
# Keys of a config for the width, the width of the inner layers, and numbers of layers.
WIDTH = ("hidden_size", "d_model", "dim")
INNER = ("intermediate_size", "encoder_ffn_dim", "d_ff", "d_inner", "hidden_dim")
LAYERS = ("num_hidden_layers", "encoder_layers", "num_layers", "n_layer", "n_layers")
DECODER_LAYERS = ("num_decoder_layers", "decoder_layers")

Config = Mapping[str, Any]


def space_for(model: Mapping[str, Any]) -> tuple[str, str]:
    """Return the shipped space that suits a model, and a sentence that names it with the reason.

    Args:
        model: the keys under `model:` in a study file; `name`, `revision` and `gguf_file` are read.
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
    """Return a model's config.json, from a folder or from the hub if this machine has no copy yet.

    Raises:
        OSError, ValueError: it does not exist or cannot be fetched, or is not a JSON mapping.
    """
    path = Path(name).expanduser() / "config.json"
    if not path.parent.is_dir():
        path = config_on_hub(name, revision)
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no mapping.")
    return config


def is_decoder(config: Config) -> bool:
    """Return true if a model is a decoder: neither an encoder nor an encoder-decoder."""
    kind, classes = str(config.get("model_type", "")), config.get("architectures") or ()
    if config.get("is_encoder_decoder"):
        return False
    if config.get("is_decoder") or kind.endswith("decoder") or any(name.endswith("ForCausalLM") for name in classes):
        return True
    masked = any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in classes)
    return not (masked or "bert" in kind or kind in ENCODERS)


def parameters_of(config: Config) -> float | None:
    """Return the approximate number of parameters, of embeddings and layers; None if its config is unusual."""
    width, layers, inner = (_first(config, names) for names in (WIDTH, LAYERS, INNER))
    if width is None or layers is None:
        return None
    # Layers that share their weights, such as ALBERT's, count once.
    layers = min(layers, config.get("num_hidden_groups", layers)) + (_first(config, DECODER_LAYERS) or 0)
    embeddings = config.get("vocab_size", 0) * config.get("embedding_size", width)
    return float(embeddings + layers * (4 * width**2 + 2 * width * (inner or 4 * width)))


def _first(config: Config, names: Sequence[str]) -> int | None:
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)
