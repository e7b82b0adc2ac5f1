"""The machine and software behind a number: versions, processor, device, commit; no host name, no absolute path."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "prx-lab", "torch", "torchvision", "numpy", "scipy", "safetensors", "diffusers", "transformers", "timm",
    "accelerate", "muon-optimizer", "datasets", "pillow", "scikit-image",
)  # fmt: skip
ALLOCATORS = ("tcmalloc", "jemalloc", "mimalloc")
NOTHING: Mapping[str, str] = {}


def env(dtypes: Mapping[str, Any] = NOTHING, device: str = "cpu") -> dict[str, Any]:
    """What env.json holds. `dtypes` is the audit of the precisions really in use (`prx_lab.precision.audit`)."""
    import torch

    return {
        "python": platform.python_version(),
        "packages": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": memory_gb(),
        "allocator": allocator(),
        "device": str(device),
        "device_name": device_name(device),
        "cuda": torch.version.cuda,
        "git": git(),
        "dtypes": dict(dtypes),
    }


def versions() -> dict[str, str | None]:
    """Versions of the packages that numbers depend on; None for one that is not installed."""
    import torch

    return {name: _version(name) for name in PACKAGES} | {"torch": torch.__version__}  # with its build: +cpu, +cu132


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_model() -> str:
    """The processor's name, such as 'Intel(R) Xeon(R) Processor'."""
    if platform.system() == "Linux":
        try:
            lines = Path("/proc/cpuinfo").read_text().splitlines()
        except OSError:
            lines = []
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    if platform.system() == "Darwin":
        name = _output(["sysctl", "-n", "machdep.cpu.brand_string"], Path.cwd())
        if name:
            return name
    return platform.processor() or platform.machine()


def cores() -> int:
    """Processor cores this process may use (not those the machine has)."""
    if platform.system() == "Linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_gb() -> float:
    """Main memory in GiB, one decimal."""
    import psutil

    return round(psutil.virtual_memory().total / 2**30, 1)


def device_name(device: str) -> str:
    """The accelerator's product name, or the processor's for the CPU."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    return cpu_model() if kind == "cpu" else f"{kind} on {cpu_model()}"


def pick_device() -> "torch.device":
    """The GPU where there is one, otherwise the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def devices() -> list[str]:
    """Every device torch can compute on here, as 'cuda:0 NVIDIA ...' lines."""
    import torch

    found = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(f"mps {cpu_model()}")
    return [*found, f"cpu {cpu_model()}"]


def allocator() -> str:
    """The memory allocator of this process; the time of a step on a CPU depends on it."""
    loaded = os.environ.get("LD_PRELOAD", "")
    named = [name for name in ALLOCATORS if name in loaded]
    if named:
        return named[0]
    tuned = [key for key in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_") if key in os.environ]
    return "system, tuned" if tuned else "system"


def compiler() -> str:
    """The C++ compiler torch.compile would use on the CPU, by name, or an empty string."""
    asked = os.environ.get("CXX", "")
    return next((Path(name).name for name in (asked, "g++", "clang++", "c++") if name and shutil.which(name)), "")


def git() -> dict[str, Any]:
    """Commit of the checkout this package runs from and whether the package differs from it; both None outside one."""
    here = Path(__file__).parent
    # an installed copy may lie in some other project's repository: only a tracked file tells the commit
    if not _output(["git", "ls-files", Path(__file__).name], here):
        return {"commit": None, "dirty": None}
    commit = _output(["git", "rev-parse", "HEAD"], here) or None
    changes = _output(["git", "status", "--porcelain", "--", "."], here)
    return {"commit": commit, "dirty": bool(changes)}


def _output(command: list[str], folder: Path) -> str:
    """What a small command prints, stripped; empty when it is not installed or fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
