"""What this machine has, in lines: versions, devices, allocator, compiler, and which networks can be loaded."""

from collections.abc import Iterator

from prx_lab import machine, zoo
from prx_lab.errors import LabError


def report(network: bool) -> Iterator[str]:
    """The lines of `prx-lab doctor`; with `network`, the hub is asked once whether real networks could be had."""
    found = machine.env()
    yield f"python       {found['python']} on {found['platform']}"
    for name, version in found["packages"].items():
        yield f"  {name:<16} {version or 'not installed'}"
    commit = found["git"]["commit"]
    yield f"commit       {commit[:12] + (' with changes' if found['git']['dirty'] else '') if commit else 'not a checkout'}"
    yield f"processor    {found['cpu']}, {found['cores']} cores, {found['memory_gb']} GiB, {found['cpu_capability']}"
    yield f"threads      {found['threads']}"
    yield f"allocator    {found['allocator']}"
    compiler = machine.compiler()
    yield f"compiler     {compiler or 'none: torch.compile will not work on the CPU; install g++ or clang'}"
    for i, device in enumerate(machine.devices()):
        yield f"{'' if i else 'devices':<12} {device}"
    yield "embedded networks"
    for name in zoo.EMBEDDED:
        yield f"  {name:<18} {_embedded(name)}"
    if network:
        yield "real networks"
        for name in zoo.REAL:
            yield f"  {name:<18} {zoo.reachable(name)}"


def _embedded(name: str) -> str:
    try:
        zoo.folder(name)
    except LabError as error:
        return str(error)
    return f"ready, {zoo.sizes()[name] / 1e6:.1f} MB, hashes match"
