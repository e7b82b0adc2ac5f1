"""Specs: frozen dataclasses that describe an experiment, turned into JSON and back by name, never unpickled."""

import importlib
import pkgutil
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from prx_lab.errors import LabError, nearest

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

REGISTRY: dict[str, type["Spec"]] = {}


@dataclass(frozen=True)
class Spec:
    """A named value; every subclass is a frozen dataclass and is found by its class name when JSON is read."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        REGISTRY[cls.__name__] = cls

    def check(self, recipe: "Recipe") -> None:
        """Refuse, with a LabError, a recipe in which this part cannot work."""

    def _repr_html_(self) -> str:
        from prx_lab.show import spec_html

        return spec_html(self)


def discover(package: ModuleType) -> None:
    """Import every module of a package, so that the specs it defines are registered."""
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)


def to_json(value: object) -> object:
    """A spec, tuple or plain value as JSON data; a spec carries its class name under `type`."""
    if is_dataclass(value):
        return {"type": type(value).__name__} | {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [to_json(v) for v in value]
    return value


def essence(value: object) -> object:
    """As `to_json`, without the fields that have their default: what stays the same when a spec gains a field."""
    if is_dataclass(value):
        set_here = (f for f in fields(value) if f.default is MISSING or getattr(value, f.name) != f.default)
        return {"type": type(value).__name__} | {f.name: essence(getattr(value, f.name)) for f in set_here}
    return [essence(v) for v in value] if isinstance(value, tuple) else value


def from_json(data: object) -> object:
    """The inverse of `to_json`; an unknown type or field is refused."""
    if isinstance(data, list):
        return tuple(from_json(v) for v in data)
    if not isinstance(data, dict):
        return data
    name = str(data.get("type"))
    if name not in REGISTRY:
        raise LabError(f"No part of a recipe is called '{name}'.{nearest(name, REGISTRY)}")
    values = {k: from_json(v) for k, v in data.items() if k != "type"}
    return build(REGISTRY[name], values)


def build(cls: type[Spec], values: dict[str, object]) -> Spec:
    """Construct a spec from field values, refusing a field it does not have."""
    known = [f.name for f in fields(cls)]
    for key in values:
        if key not in known:
            raise LabError(f"{cls.__name__} has no field '{key}'.{nearest(key, known)} Its fields are {', '.join(known)}.")
    return cls(**values)


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """A spec as {path: plain value}, with paths such as `optim.lr_scale` and `terms[1].weight`."""
    if is_dataclass(value):
        head = {prefix or "type": type(value).__name__} if prefix else {}
        parts = (flatten(getattr(value, f.name), f"{prefix}.{f.name}" if prefix else f.name) for f in fields(value))
    elif isinstance(value, tuple) and any(is_dataclass(v) for v in value):
        head, parts = {}, (flatten(v, f"{prefix}[{i}]") for i, v in enumerate(value))
    else:
        return {prefix: value}
    for part in parts:
        head |= part
    return head
