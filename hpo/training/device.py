"""Device: the GPU or CPU that trials train on, and what it cannot do."""

import os
from pathlib import Path

import torch

from hpo.config.hyperparameters import resolved
from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.errors import ConfigurationError, SpaceError
from hpo.messages import Precision
from hpo.space.enumeration import cases
from hpo.space.search_space import SearchSpace

GPU_FILE = Path("/dev/nvidia0")
"""There where the kernel has an NVIDIA GPU."""


def choose_device(compute: ComputeConfig) -> torch.device:
    """Return the device that is asked for; `auto` is the GPU where there is one.

    Raises:
        ConfigurationError: a GPU is asked for and torch sees none.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("compute.device is cuda, but torch sees no GPU; choose auto or cpu.")
    return torch.device("cpu" if compute.device == "cpu" or not torch.cuda.is_available() else "cuda:0")


def unseen_gpu_warning(compute: ComputeConfig) -> str | None:
    """Return in a sentence that this machine has a GPU which torch does not see; None otherwise, or for a CPU.

    A build of torch for the CPU, or a driver older than its CUDA, would else make a search of GPUs one of cores.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    elsewhere = compute.device == "cpu" or compute.runner == "ray_tune"
    if elsewhere or hidden or torch.cuda.is_available() or not GPU_FILE.exists():
        return None
    build = torch.version.cuda
    why = (
        "is a build for the CPU" if build is None else f"is built for CUDA {build}, for which the driver may be too old"
    )
    return (
        f"This machine has an NVIDIA GPU, but torch {torch.__version__} sees none: it {why}. Trials train on the CPU; "
        "compute.device=cpu says that this is meant."
    )


def refuse_emulated(device: torch.device, precision: Precision) -> None:
    """Refuse bf16 on a GPU that has none, such as a T4: torch would emulate it, slower than fp32.

    Raises:
        ConfigurationError: says which GPU it is.
    """
    if precision == "bf16" and not has_bf16(device):
        name = torch.cuda.get_device_name(device)
        raise ConfigurationError(
            f"The precision is bf16, but {device} ({name}) has none; set compute.precision to fp32."
        )


def has_bf16(device: torch.device) -> bool:
    """Return whether a device computes in bf16 itself."""
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def with_dtype(config: StudyConfig, space: SearchSpace) -> StudyConfig:
    """Return the study with its `model.dtype` decided: where it is open, bf16 if all trials of the space are of `lora`.

    Raises:
        SpaceError: the weights are to be bf16 or quantized, but a trial of the space changes them.
    """
    methods = {resolved("method", values) for values in cases(space.parameters, ("method",))}
    model, changing = config.model, sorted(methods - {"head", "lora"})
    asked = model.quantization or model.dtype
    if changing and asked not in ("auto", "fp32"):
        raise SpaceError(
            f"The model's weights are to be {asked}, but space {space.name} has method {' and '.join(changing)}, which "
            "trains them in fp32; let method be lora or head, or leave model.dtype and model.quantization out."
        )
    if model.dtype != "auto":
        return config
    on_cluster = config.compute.runner == "ray_tune"
    frozen = methods == {"lora"} and (on_cluster or has_bf16(choose_device(config.compute)))
    return config.model_copy(update={"model": model.model_copy(update={"dtype": "bf16" if frozen else "fp32"})})
