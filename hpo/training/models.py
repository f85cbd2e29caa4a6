"""Which weights a trial starts from: a pretrained model, read once a process and reset in place for each trial."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn

from hpo.config.study_file import ModelConfig
from hpo.data.batching import Batch
from hpo.errors import ModelError
from hpo.tasks.protocol import Task
from hpo.training.dropout import Dropouts
from hpo.training.layers import LayerStack
from hpo.training.methods import above_layers
from hpo.training.out_of_memory import is_out_of_memory
from hpo.training.precision import Precision, autocast
from hpo.training.shared import SharedFiles, content_digest


class PretrainedModel:
    """A model on its device with its tokenizer and a copy of its pretrained weights."""

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        fresh: frozenset[str],
        device: torch.device,
        shared: SharedFiles | None = None,
    ) -> None:
        """Take over a loaded model that is still on the CPU.

        Args:
            network: a transformers model with a head.
            tokenizer: its tokenizer.
            fresh: names of parameters that each trial draws anew: the head, a pooler that pretraining did not leave.
            device: where it shall train.
            shared: where the pretrained weights are held for all worker processes; None to hold them here.
        """
        self.pad_id = _set_padding(network, tokenizer)
        self.longest = _longest(network, tokenizer)
        """Most tokens of one text; None where there is no limit."""
        self.fresh = fresh
        """Names of parameters that each trial draws anew."""
        self._pretrained = _kept({n: t for n, t in network.state_dict().items() if n not in self.fresh}, shared)
        self._fresh_modules = _copies_of_owners(network, self.fresh)
        self._layers = LayerStack(network)
        self._dropouts = Dropouts(network)
        self.tokenizer = tokenizer
        self.network = network.to(device)
        self.device = device

    @torch.no_grad()
    def reset(self, seed: int, head_scale: float | None = None) -> None:
        """Put the pretrained weights back, in place, and initialise the head from `seed`: the same on every device.

        The model has all its layers then; `keep_layers` is to follow where a trial keeps fewer.

        Args:
            seed: of what is drawn anew; an equal one draws the same directions at every scale.
            head_scale: standard deviation of the matrices that are drawn anew, around 0; None for the library's own.
        """
        self.keep_layers(None)
        with torch.random.fork_rng(devices=[]):
            # Of the CPU alone: `torch.manual_seed` would seed the generators of all devices too.
            torch.default_generator.manual_seed(seed)
            for module in self._fresh_modules.values():
                self.network._init_weights(module)
        fresh = {
            f"{owner}.{name}": tensor
            for owner, module in self._fresh_modules.items()
            for name, tensor in module.named_parameters(recurse=False)
        }
        if head_scale is not None:
            # From the seed again: a library that draws its head so, at this scale, has drawn these very numbers.
            generator = torch.Generator().manual_seed(seed)
            for matrix in (tensor for tensor in fresh.values() if tensor.ndim >= 2):
                matrix.normal_(0.0, head_scale, generator=generator)
        self.network.load_state_dict({**self._pretrained, **{name: fresh[name] for name in self.fresh}})
        self.network.zero_grad(set_to_none=True)

    def keep_layers(self, count: int | None) -> None:
        """Keep the bottom `count` transformer layers, in place; None for all.

        Raises:
            ConfigurationError: more layers than the model has.
            ModelError: its layers are not one plain stack.
        """
        self._layers.keep(count)

    def restore(self, trained: Mapping[str, Tensor], kept_layers: int | None = None) -> None:
        """Put a trial's trained weights, in place, over the pretrained ones, in a model of as many layers.

        Args:
            trained: name -> weight, as the trial's `Optimization.parameters` were.
            kept_layers: the trial's.

        Raises:
            ModelError: they are of another model.
        """
        self.reset(0)
        self.keep_layers(kept_layers)
        own = self.network.state_dict()
        strange = [name for name, tensor in trained.items() if name not in own or own[name].shape != tensor.shape]
        if strange or not self.fresh <= trained.keys():
            raise ModelError(
                "The trained weights are of another model or label set; give the study that model, or train again."
            )
        self.network.load_state_dict(dict(trained), strict=False)

    def logits(self, batch: Batch, precision: Precision) -> Tensor:
        """Return the model's answer to a batch, computed in `precision`; fp32, shape (rows, labels)."""
        with autocast(self.device, precision):
            answer: Tensor = self.network(**self._placed(batch)).logits
        return answer.float()

    def features(self, batch: Batch, precision: Precision) -> Tensor:
        """Return the mean of the last layer over the tokens of each text; fp32, shape (rows, width)."""
        with autocast(self.device, precision):
            states: Tensor = self.network.base_model(**self._placed(batch)).last_hidden_state
        mask = batch.inputs["attention_mask"].to(self.device).unsqueeze(-1)
        return (states.float() * mask).sum(dim=1) / mask.sum(dim=1)

    def _placed(self, batch: Batch) -> dict[str, Tensor]:
        """Return the inputs of the network, on their way to the device."""
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.inputs.items()}

    def set_dropout(self, probability: float | None, attention: float | None = None) -> None:
        """Set every dropout layer to `probability`, and the dropout of attention weights to `attention`.

        Args:
            probability: in [0, 1); None for the model's own.
            attention: in [0, 1); None for `probability` where it is a layer, else the model's own.

        Raises:
            ModelError: a probability where the model has no such dropout.
        """
        self._dropouts.put(probability, attention)

    def pretrained(self, names: Mapping[str, object]) -> dict[str, Tensor]:
        """Return name -> pretrained weight on the device, for those of `names` that pretraining left; read only."""
        return {name: self._pretrained[name].to(self.device) for name in names if name not in self.fresh}

    def refuse_dropout(self) -> None:
        """Raise a `ModelError` where the model has no dropout layers to set."""
        self._dropouts.refuse()

    def refuse_attention_dropout(self) -> None:
        """Raise a `ModelError` where the model has no dropout of attention weights to set."""
        self._dropouts.refuse_attention()

    def refuse_length(self, max_length: int) -> None:
        """Raise a `ModelError` where texts of `max_length` tokens are longer than the model can read."""
        if self.longest is not None and max_length > self.longest:
            raise ModelError(
                f"max_length is {max_length}, but the model reads at most {self.longest} tokens; lower it to "
                f"{self.longest} or less."
            )


def load_model(
    config: ModelConfig,
    task: Task[Any],
    device: torch.device,
    shared: SharedFiles | None = None,
    *,
    trained: bool = False,
) -> PretrainedModel:
    """Load model and tokenizer in fp32, from a folder or the hub.

    Args:
        config: which.
        task: gives it its head.
        device: where it shall train.
        shared: where its weights are held for all worker processes of the machine; None to hold them here.
        trained: whether its head, too, must be among its weights.

    Raises:
        ModelError: no such folder or hub model, no weights or tokenizer in it, or an architecture that the task has
            no head for.
    """
    _refuse_incomplete(config)
    # Read by the hub's client at each request: its telemetry stays off however early it was imported.
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    options: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if config.gguf_file:
        options["gguf_file"] = config.gguf_file
    source = str(Path(config.name).expanduser()) if _is_folder(config.name) else config.name
    with quietly():
        with _told(config, "The model"):
            network, found = task.load(
                source, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True, **options
            )
        with _told(config, "The tokenizer"):
            # What looks like a special token in a text is text; the folder of a trained model says so too.
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, split_special_tokens=True, **options)
    _refuse_empty(config, tokenizer)
    mismatched = {key[0] if isinstance(key, tuple) else key for key in found["mismatched_keys"]}
    missing = frozenset(found["missing_keys"]) | mismatched
    head = frozenset(task.head(network) or above_layers(network))
    _refuse_foreign(config, missing - (frozenset() if trained else head))
    try:
        return PretrainedModel(network, tokenizer, missing | head, device, shared)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    size = sum(weight.nbytes for weight in network.parameters()) / 2**30
    raise ModelError(
        f"The weights of {config.name}, {size:.1f} GiB, do not fit into what is free of {device}; free it, or choose a "
        "smaller model or another device."
    )


def _is_folder(name: str) -> bool:
    return Path(name).expanduser().is_dir()


def _refuse_incomplete(config: ModelConfig) -> None:
    """Raise where `config` names a folder that is not there, or holds no model."""
    folder = Path(config.name).expanduser()
    if not folder.is_dir():
        # A hub id is `name` or `owner/name`.
        if config.name.startswith(("/", ".", "~")) or config.name.count("/") > 1:
            raise ModelError(
                f"There is no folder {config.name}; model.name is a folder that holds a model, or a hub id."
            )
        return
    if config.gguf_file:
        if not (folder / config.gguf_file).is_file():
            raise ModelError(f"{folder} holds no file {config.gguf_file}, which model.gguf_file names.")
    elif not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no config.json; model.name is a folder that `save_pretrained` wrote.")
    elif not any(file for pattern in ("*.safetensors", "pytorch_model*.bin") for file in folder.glob(pattern)):
        raise ModelError(f"{folder} holds a config.json but no weights; expected model.safetensors beside it.")


@contextmanager
def _told(config: ModelConfig, part: str) -> Iterator[None]:
    """Say in one sentence why a part of a model could not be loaded."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(_why(config, part, error)) from error


def _why(config: ModelConfig, part: str, error: Exception) -> str:
    text = str(error)
    first = text.strip().splitlines()[0].rstrip(".") if text.strip() else type(error).__name__
    if "Unrecognized configuration class" in text:
        kind = text.partition("configuration_")[2].partition(".")[0] or "this architecture"
        return f"{config.name} is a model ({kind}) that transformers has no classification head for; choose another."
    if "trust_remote_code" in text:
        return f"{config.name} runs its own Python code; where you trust it, set model.trust_remote_code: true."
    if isinstance(error, OSError) and not _is_folder(config.name):
        return f"There is no folder {config.name}, and the hub gives no such model: {first}."
    return f"{part} of {config.name} cannot be loaded: {first}."


def _refuse_empty(config: ModelConfig, tokenizer: Any) -> None:
    # Without a tokenizer's files transformers makes one of nothing but special tokens, and says nothing.
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise ModelError(f"{config.name} holds no tokenizer; expected tokenizer.json beside the weights.")


def _refuse_foreign(config: ModelConfig, missing: frozenset[str]) -> None:
    """Raise where weights of the pretrained model itself are missing: it would train from noise, but for its pooler."""
    lost = sorted(name for name in missing if "pooler" not in name.split("."))
    if lost:
        raise ModelError(
            f"The weights of {config.name} do not fit its config.json: {len(lost)} tensors are missing or of another "
            f"shape, the first is {lost[0]}."
        )


def _set_padding(network: Any, tokenizer: Any) -> int:
    """Make tokenizer and model agree on a padding token, the end-of-text token where there is none; return its id.

    A decoder's head reads the last token that is not padding, found by its id, not by the mask. A text that itself ends
    in the padding token is therefore read one token earlier, alike whether alone or in a padded batch.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError("The tokenizer has neither a padding nor an end-of-text token; name a `pad_token` in it.")
        tokenizer.pad_token = tokenizer.eos_token
    pad_id = int(tokenizer.pad_token_id)
    known = network.get_input_embeddings().num_embeddings
    if pad_id >= known:
        raise ModelError(f"The tokenizer's padding token is number {pad_id}, but the model knows only {known} tokens.")
    network.config.get_text_config().pad_token_id = pad_id
    network.config.pad_token_id = pad_id
    network.config.use_cache = False
    return pad_id


def _longest(network: Any, tokenizer: Any) -> int | None:
    limits = [limit for limit in (tokenizer.model_max_length,) if limit < 10**9]
    positions = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if positions:
        # RoBERTa and its kin count positions from behind the padding position.
        tables = [m for name, m in network.named_modules() if name.endswith("position_embeddings")]
        paddings = [table.padding_idx for table in tables if getattr(table, "padding_idx", None) is not None]
        limits.append(positions - max((padding + 1 for padding in paddings), default=0))
    return min(limits, default=None)


def _kept(weights: Mapping[str, Tensor], shared: SharedFiles | None) -> Mapping[str, Tensor]:
    """Return what of `weights` stays as it is while they are trained, in this process's memory or all workers'."""

    def copies() -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in weights.items()}

    # Known by their content alone: whatever a folder or a hub id stood for before, these are the weights now.
    return copies() if shared is None else shared.tensors("weights", [content_digest(weights)], copies)


def _copies_of_owners(network: Any, names: frozenset[str]) -> dict[str, nn.Module]:
    """Return copies of the modules that own these parameters: initialised on the CPU, whatever the device."""
    owners = dict.fromkeys(name.rpartition(".")[0] for name, _ in network.named_parameters() if name in names)
    return {owner: deepcopy(network.get_submodule(owner)) for owner in owners}


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers' progress bars and load report off the screen: what matters in them is checked by hpo."""
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
