"""Model files: the check, before a model is loaded, that its folder is complete or that the hub has it. Torch-free."""

from pathlib import Path

from hpo.config.hub import refuse_absent
from hpo.config.study_file import ModelConfig
from hpo.errors import ModelError


def is_folder(name: str) -> bool:
    """Return true if the name of a model is a folder of this machine, and no hub id."""
    return Path(name).expanduser().is_dir()


def refuse_incomplete(config: ModelConfig) -> None:
    """Refuse a model that can be seen to be missing without loading it, in a folder or on the hub.

    Raises:
        ModelError: there is no such folder or hub model, or no configuration or weights in the folder.
    """
    folder = Path(config.name).expanduser()
    if not folder.is_dir():
        # A hub id is `name` or `owner/name`.
        if config.name.startswith(("/", ".", "~")) or config.name.count("/") > 1:
            raise ModelError(
                f"There is no folder {config.name}; model.name is a folder that holds a model, or a hub id."
            )
        refuse_absent(config.name, config.revision, config.gguf_file or "config.json")
        return
    there = ", ".join(sorted(file.name for file in folder.glob("*.gguf")))
    if config.gguf_file:
        if not (folder / config.gguf_file).is_file():
            known = f" Known: {there}." if there else ""
            raise ModelError(f"{folder} holds no file {config.gguf_file}, which model.gguf_file names.{known}")
    elif not (folder / "config.json").is_file():
        advice = f"set model.gguf_file to take {there}" if there else "model.name is one that `save_pretrained` wrote"
        raise ModelError(f"The folder {folder} holds no config.json; {advice}.")
    elif not any(file for pattern in ("*.safetensors", "pytorch_model*.bin") for file in folder.glob(pattern)):
        raise ModelError(f"{folder} holds a config.json but no weights; expected model.safetensors beside it.")
