"""Where the time of a training step goes, by torch's profiler: `python -m benchmarks.breakdown`.

Shares are of the processor's own time on the CPU and of the kernels' time on a GPU; what a compiler fuses is one kind of its own.
"""

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases import SCALE, ours, recipe, store
from benchmarks.harness import DEVICE, command, warm_up
from prx_lab.report.speed import Record

KINDS = {  # the first kind of which a word stands in an operation's name; attention's products are the batched ones
    "attention": ("scaled_dot_product", "bmm", "_softmax", "flash", "fmha"),
    "matrix products": ("aten::mm", "addmm", "gemm", "cutlass", "nvjet"),
    "fused by the compiler": ("CompiledFxGraph", "triton", "cpp_fused"),
    "casts and copies": ("copy", "aten::cat", "clone", "contiguous", "stack"),
    "optimiser and clipping": ("adam", "linalg_vector_norm", "_foreach", "clip"),
    "draws": ("normal_", "uniform_", "randperm", "random_", "bernoulli"),
    "other elementwise": ("aten::",),
}


def kind(name: str) -> str:
    """The kind of work an operation of that name does."""
    return next((k for k, words in KINDS.items() if any(word.lower() in name.lower() for word in words)), "dispatch")


def shares(run, steps: int) -> dict[str, float]:
    """Share of each kind in the profiled time of `steps` steps, largest first."""
    cuda = DEVICE.type == "cuda"
    warm_up(run.step, 3)
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as profiled:
        for _ in range(steps):
            run.step()
    found: dict[str, float] = {}
    for event in profiled.key_averages():
        taken = event.self_device_time_total if cuda else event.self_cpu_time_total
        found[kind(event.key)] = found.get(kind(event.key), 0.0) + taken
    total = sum(found.values())
    return {k: v / total for k, v in sorted(found.items(), key=lambda item: -item[1])}


def measure(repeats: int) -> Record:
    record, one = Record("breakdown", "Where the time of a training step goes"), recipe()
    for compiled in (True, False):
        run = ours(one, store(one), DEVICE, compiled)
        record.facts[f"{SCALE} recipe's step, bf16, {'compiled' if compiled else 'eager'}"] = shares(run, repeats)
        torch._dynamo.reset()
    return record


if __name__ == "__main__":
    command(__doc__, measure, 5)
