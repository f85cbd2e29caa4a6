"""Device: the GPU or CPU that trials train on, and what it cannot do."""

import os
from pathlib import Path

import torch

from hpo.config.study_file import ComputeConfig
from hpo.errors import ConfigurationError
from hpo.messages import Precision

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
