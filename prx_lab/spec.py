"""Specs: frozen dataclasses that describe an experiment, turned into JSON and back by name, never unpickled."""

import importlib
import pkgutil
import textwrap
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from inspect import isabstract
from types import ModuleType, UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from prx_lab.errors import LabError, nearest

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

REGISTRY: dict[str, type["Spec"]] = {}
LARGEST = {int: 10**12, float: 1e30}  # float32 has no more


@dataclass(frozen=True)
class Spec:
    """A named value; every subclass is a frozen dataclass and is found by its class name when JSON is read."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        REGISTRY[cls.__name__] = cls

    def __post_init__(self) -> None:
        for name, kind in declared(type(self)).items():
            object.__setattr__(self, name, normal(getattr(self, name), kind))

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
    """The inverse of `to_json`; LabError for an unknown type or field."""
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
    """Construct a spec from field values; LabError for an abstract one, or a field that it does not have or that is missing."""
    if isabstract(cls):
        kinds = ", ".join(sorted(name for name, kind in REGISTRY.items() if issubclass(kind, cls) and not isabstract(kind)))
        raise LabError(f"{cls.__name__} is not a part by itself but a kind of part; use one of {kinds}.")
    known = [f.name for f in fields(cls)]
    missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in values]
    if missing and values.keys() <= set(known):
        raise LabError(f"{cls.__name__} lacks {', '.join(missing)}; give a value for each.")
    for key in values:
        if key not in known:
            raise LabError(f"{cls.__name__} has no field '{key}'.{nearest(key, known)} Its fields are {', '.join(known)}.")
    return cls(**values)


def normal(value: object, kind: Any) -> object:
    """A value as its JSON gives it back, so that equal specs have one id: a float where one is declared, and no scalar of NumPy's."""
    if get_origin(kind) is tuple and isinstance(value, tuple):
        kinds = get_args(kind)
        kinds = kinds[:1] * len(value) if kinds[-1] is ... else kinds
        return tuple(map(normal, value, kinds)) if len(kinds) == len(value) else value
    if kind in (bool, int, float) and not isinstance(value, int | float):
        from numpy import generic  # only for what is none of Python's: the command line starts without NumPy

        value = value.item() if isinstance(value, generic) else value
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST[float]
    return float(value) if kind is float and number else value


def require_types(spec: Spec, prefix: str = "") -> None:
    """Refuse, with a LabError, a field whose value is not of its declared type, a number that is not finite or absurdly large."""
    for name, kind in declared(type(spec)).items():
        require_type(f"{prefix}{name}", getattr(spec, name), kind)


@cache
def declared(cls: type[Spec]) -> dict[str, Any]:
    """The types of a spec's fields."""
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls)}


def require_type(path: str, value: object, kind: Any) -> None:
    """Refuse, with a LabError, a value not of the declared type `kind`; of a spec every field is looked at, of a tuple every element."""
    if isinstance(kind, UnionType):
        kind = next((one for one in get_args(kind) if isinstance(value, one)), kind)
    if get_origin(kind) is tuple:
        kinds, items = get_args(kind), value if isinstance(value, tuple) else ()
        kinds = kinds[:1] * len(items) if kinds[-1] is ... else kinds
        if not isinstance(value, tuple) or len(items) != len(kinds):
            raise LabError(f"{path} is {shown(value)}, a {type(value).__name__}; it must be a tuple{f' of {len(kinds)}' * bool(kinds)}.")
        for i, (item, one) in enumerate(zip(items, kinds)):
            require_type(f"{path}[{i}]", item, one)
        return
    right = isinstance(value, int | float if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not right:
        raise LabError(f"{path} is {shown(value)}, a {type(value).__name__}; it must be {getattr(kind, '__name__', kind)}.")
    if isinstance(value, int | float) and not abs(value) <= LARGEST[int if isinstance(value, int) else float]:
        raise LabError(f"{path} is {shown(value)}; it must be a finite number of a sensible size.")
    if isinstance(value, str) and not value.isascii() and value != value.encode(errors="replace").decode():
        raise LabError(f"{path} is {shown(value)}, which is not Unicode text; rename what it stands for.")
    if isinstance(value, Spec):
        require_types(value, f"{path}.")


def shown(value: object) -> str:
    """A value as text, not longer than a sentence bears."""
    return textwrap.shorten(ascii(value) if isinstance(value, str) else repr(value), 80, placeholder=" ...")


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
