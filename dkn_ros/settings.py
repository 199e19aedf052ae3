"""What a setting is: a field of a frozen dataclass that knows its description, its range and when it may change."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, get_type_hints


@dataclass(frozen=True)
class Setting:
    """What is known of one field besides its type and default."""

    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] | None = None
    live: bool = False
    """True where the value may change while the node runs."""
    fixed: bool = False
    """True where the value is read at start and never again."""
    pattern: str | None = None
    """Regular expression that all of a text has to match."""
    number: bool = False
    """True where a text may be a number, which YAML and the command line of ROS do not leave a text."""

    def taken(self, kind: type, value: Any) -> Any:
        """`value` as the `kind` that was meant, where YAML has made another of it.

        It takes 4 where 4.0 is meant or, of a text that may be a number, "4"; and false where "off" is.
        """
        if kind is float and type(value) is int:
            return float(value)
        if kind is str and type(value) is bool and {"on", "off"} <= set(self.choices or ()):
            return "on" if value else "off"
        if kind is str and self.number and type(value) in (int, float):
            return str(value)
        return value

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError unless `value` is allowed."""
        if self.choices is not None and value not in self.choices:
            wanted = ", ".join(repr(c) for c in self.choices)
            raise ValueError(f"{name} is {value!r}; wanted: one of {wanted}")
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            raise ValueError(f"{name} is {value!r}; wanted: {self.description}")
        if self.minimum is not None and not value >= self.minimum:
            raise ValueError(f"{name} is {value!r}; wanted: at least {self.minimum}")
        if self.maximum is not None and not value <= self.maximum:
            raise ValueError(f"{name} is {value!r}; wanted: at most {self.maximum}")


def setting(
    default: Any,
    description: str,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[Any, ...] | None = None,
    live: bool = False,
    fixed: bool = False,
    pattern: str | None = None,
    number: bool = False,
) -> Any:
    """A dataclass field with a default and its `Setting`."""
    metadata = {"setting": Setting(description, minimum, maximum, choices, live, fixed, pattern, number)}
    if isinstance(default, dict):  # dataclasses want a fresh one for every instance
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(cls: type) -> dict[str, tuple[type, Any, Setting]]:
    """name -> (type, default, Setting) of every field of a settings dataclass, in order."""
    types = get_type_hints(cls)
    found = {}
    for f in dataclasses.fields(cls):
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        found[f.name] = (types[f.name], default, f.metadata["setting"])
    return found


def chosen(cls: type, name: str, text: str) -> tuple[str, ...]:
    """`one,other` -> the values of the setting `name`, each once; ValueError for one that is not among its choices."""
    choices = settings_of(cls)[name][2].choices or ()
    values = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for value in values:
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; wanted: {', '.join(choices)}, separated by commas")
    return values


Config = TypeVar("Config", bound="Settings")


@dataclass(frozen=True)
class Settings:
    """Base of the settings dataclasses: checks every field's type and range when it is made."""

    LIMITS: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Fields that are the lower and the upper end of something; 0 is no limit."""

    def __post_init__(self) -> None:
        for name, (kind, _, known) in settings_of(type(self)).items():
            value = known.taken(kind, getattr(self, name))
            object.__setattr__(self, name, value)
            if type(value) is not kind:
                raise ValueError(f"{name} is {value!r} ({type(value).__name__}); wanted: {kind.__name__}")
            known.check(name, value)
        for low, high in self.LIMITS:
            near, far = getattr(self, low), getattr(self, high)
            if 0 < far < near:
                raise ValueError(f"{low} is {near!r} and {high} is {far!r}; wanted: {low} below {high}, or 0")

    @classmethod
    def from_mapping(cls: type[Config], values: dict[str, Any]) -> Config:
        """Build from a mapping; a name that is no setting raises ValueError and lists those that are."""
        names = settings_of(cls)
        unknown = sorted(str(name) for name in values if name not in names)
        if unknown:
            raise ValueError(f"unknown setting {', '.join(unknown)}; known: {', '.join(names)}")
        return cls(**values)
