"""Pretrained models: loading of one, and its tokenizer, from a folder or the hub."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open

from hpo.config.optional_packages import refuse_missing
from hpo.config.study_file import ModelConfig
from hpo.errors import ConfigurationError, ModelError, error_line
from hpo.files.shared import SharedFiles
from hpo.memory import if_memory_suffices, is_out_of_memory
from hpo.model.backbone import Backbone
from hpo.model.methods import head_parameters
from hpo.model.model_files import is_folder, refuse_incomplete
from hpo.tasks.protocol import HasHead, Task

OF_FILES = (SafetensorError, StrictDataclassError, struct.error)
"""Errors of damaged files of weights, and of values in a config.json that its architecture does not take."""
NO_TOKENIZER = "holds no tokenizer; expected tokenizer.json beside the weights"


def load_model(
    config: ModelConfig,
    task: Task[Any],
    device: torch.device,
    shared: SharedFiles | None = None,
    *,
    trained: bool = False,
) -> Backbone:
    """Load model and tokenizer, from a folder or the hub.

    Args:
        config: name, revision and format of the model.
        task: gives it its head.
        device: device to train on.
        shared: store of its weights that all worker processes of the machine share; None to hold them here.
        trained: True for a trained model, whose head must be among its weights too.

    Raises:
        ModelError: no such folder or hub model, no weights or tokenizer in it, or an architecture without a head for
            the task.
        ConfigurationError: the device cannot compute, or the tokenizer cannot represent the task's prompt or words.
    """
    refuse_incomplete(config)
    # The hub's client reads this at each request: telemetry stays off even if it was imported earlier.
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    options: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if config.gguf_file:
        options["gguf_file"] = config.gguf_file
    source = str(Path(config.name).expanduser()) if is_folder(config.name) else config.name
    # Not set on the tokenizer, which could not be saved with it. By default bitsandbytes loads onto a GPU, but the
    # backbone takes a network on the CPU, and moves it.
    quantized = {"quantization_config": _in_four_bits(), "device_map": {"": "cpu"}} if config.quantization else {}
    dtype = torch.bfloat16 if config.dtype == "bf16" else torch.float32
    # transformers shows its progress in reading GGUF whatever its settings.
    with quietly(), redirect_stderr(io.StringIO()) if config.gguf_file else nullcontext():
        with _explained_errors(config, "The model"):
            network, found = task.load(
                source, dtype=dtype, ignore_mismatched_sizes=True, output_loading_info=True, **options, **quantized
            )
        with _explained_errors(config, "The tokenizer"):
            # What looks like a special token in a text is text; the folder of a trained model has the same setting.
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, split_special_tokens=True, **options)
    _refuse_empty(config, tokenizer)
    _refuse_unended(config, network, tokenizer)
    _leave_unpacked(network)
    mismatched = {key[0] if isinstance(key, tuple) else key for key in found["mismatched_keys"]}
    missing = frozenset(found["missing_keys"]) | mismatched
    new = frozenset(head_parameters(network))
    _refuse_foreign(config, missing - (frozenset() if trained else new))
    if isinstance(task, HasHead):
        _refuse_headless(config, missing & new)
        new = frozenset()
    head = task.head_for(network, tokenizer) if isinstance(task, HasHead) else None
    backbone = if_memory_suffices(lambda: Backbone(network, tokenizer, missing | new, device, shared, head=head))
    if backbone and if_memory_suffices(lambda: multiply(device)):
        if trained and dtype != torch.float32:
            _restore_head(backbone, Path(source))
        return backbone
    size = sum(weight.nbytes for weight in network.parameters()) / 2**30
    raise ModelError(
        f"The weights of {config.name}, {size:.1f} GiB, do not fit into what is free of {device}; free it, or choose a "
        "smaller model or another device."
    )


@torch.no_grad()
def _restore_head(backbone: Backbone, folder: Path) -> None:
    """Load the head of a trained model as saved: it is fp32, and was rounded to the dtype of the rest."""
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for name in backbone.fresh & {*weights.keys()}:
                backbone.network.get_parameter(name).copy_(weights.get_tensor(name))


def multiply(device: torch.device) -> float:
    """Multiply two small matrices, which loads the device libraries that every product needs; return a number.

    Raises:
        ConfigurationError: the device cannot compute.
        RuntimeError: out of memory.
    """
    try:
        numbers = torch.ones(8, 8, device=device)
        return float((numbers @ numbers).sum())
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ConfigurationError(
            f"torch {torch.__version__} cannot compute on {device}: {error_line(error)}; install a build of torch that "
            "is for this GPU and its driver, or set compute.device to cpu."
        ) from error


def _in_four_bits() -> Any:
    """Return the quantization of all linear layers except the head's: NF4, with double quantization."""
    refuse_missing("bitsandbytes", "model.quantization nf4")
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _leave_unpacked(network: Any) -> None:
    """Keep bitsandbytes from packing 4-bit weights for a CPU, because gradients do not pass through them."""
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@contextmanager
def _explained_errors(config: ModelConfig, part: str) -> Iterator[None]:
    """Explain in one sentence why a part of a model could not be loaded."""
    try:
        yield
    except (OSError, ValueError, LookupError, ImportError, RuntimeError, *OF_FILES) as error:
        if isinstance(error, ModelError) or is_out_of_memory(error):
            raise
        raise ModelError(_why(config, part, error)) from error


def _why(config: ModelConfig, part: str, error: Exception) -> str:
    text = str(error)
    lines = [line.strip() for line in text.strip().splitlines()] or [type(error).__name__]
    first = " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")
    if "Unrecognized configuration class" in text:
        kind = text.partition("configuration_")[2].partition(".")[0] or "this architecture"
        head = "language-model" if "CausalLM" in text else "classification"
        return f"{config.name} is a model ({kind}) that transformers has no {head} head for; choose another."
    if "trust_remote_code" in text:
        return f"{config.name} runs its own Python code; where you trust it, set model.trust_remote_code: true."
    if isinstance(error, OSError) and not is_folder(config.name):
        return f"There is no folder {config.name}, and the hub gives no such model: {first}."
    if "backend tokenizer" in text:
        return f"{config.name} {NO_TOKENIZER}."
    of_values = isinstance(error, ValueError) and "support" not in text
    is_damaged = isinstance(error, SafetensorError | struct.error) or (config.gguf_file and of_values)
    advice = f"; see whether {config.gguf_file or 'each file of its weights'} is whole" if is_damaged else ""
    return f"{part} of {config.name} cannot be loaded: {first}{advice}."


def _refuse_empty(config: ModelConfig, tokenizer: Any) -> None:
    # Without a tokenizer's files, transformers silently makes one with nothing but special tokens.
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise ModelError(f"{config.name} {NO_TOKENIZER}.")


def _refuse_unended(config: ModelConfig, network: Any, tokenizer: Any) -> None:
    """Raise an error if texts lack the token by which the head of an encoder-decoder reads them."""
    if not (network.config.is_encoder_decoder and hasattr(network, "classification_head")):
        return
    end = network.config.eos_token_id
    if end not in tokenizer("one")["input_ids"]:
        raise ModelError(
            f"{config.name} classifies a text by its end-of-text token, number {end}, but its tokenizer puts none "
            "behind a text; take a tokenizer that does, as the one it was pretrained with, or choose another model."
        )


def _refuse_headless(config: ModelConfig, missing: frozenset[str]) -> None:
    """Raise an error if weights of the model's pretrained head are missing."""
    if missing:
        raise ModelError(
            f"{config.name} has no language-model head, which task.head label_words asks: {min(missing)} is missing; "
            "choose a model that has one, or task.head classifier."
        )


def _refuse_foreign(config: ModelConfig, missing: frozenset[str]) -> None:
    """Raise an error if pretrained weights, other than a pooler's, are missing: the model would train from noise."""
    lost = sorted(name for name in missing if "pooler" not in name.split("."))
    if lost:
        raise ModelError(
            f"The weights of {config.name} do not fit its config.json: {len(lost)} tensors are missing or of another "
            f"shape, the first is {lost[0]}."
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Hide transformers' progress bars and load report: hpo checks the relevant parts itself."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
