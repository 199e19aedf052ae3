"""Settings: every default is allowed, everything that is not allowed is refused by name."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from dkn_ros import config
from dkn_ros.config import NodeConfig, PipelineConfig, TrainingConfig
from dkn_ros.settings import Settings, settings_of

CLASSES = sorted(Settings.__subclasses__(), key=lambda cls: cls.__name__)
FIELDS = [pytest.param(cls, name, id=f"{cls.__name__}.{name}") for cls in CLASSES for name in settings_of(cls)]
each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
each_field = pytest.mark.parametrize(("cls", "name"), FIELDS)


def test_all_settings_classes_are_here() -> None:
    assert {PipelineConfig, NodeConfig, config.CameraConfig, TrainingConfig} <= set(CLASSES)


@each_class
def test_defaults_are_allowed_and_are_those_of_the_fields(cls: type[Settings]) -> None:
    made = dataclasses.asdict(cls())
    assert made == {name: default for name, (_, default, _) in settings_of(cls).items()}
    assert cls.from_mapping(made) == cls()


@each_field
def test_every_setting_is_described_and_has_a_sensible_range(cls: type[Settings], name: str) -> None:
    kind, default, known = settings_of(cls)[name]
    assert kind in (str, int, float, bool, dict) and type(default) is kind
    assert len(known.description) > 10 and "\n" not in known.description
    if isinstance(default, int | float) and kind is not bool:
        assert known.minimum is not None
        assert known.minimum <= default <= (math.inf if known.maximum is None else known.maximum)
    if known.choices is not None:
        assert default in known.choices and all(type(choice) is kind for choice in known.choices)


@each_field
def test_a_value_of_another_type_is_refused_by_name(cls: type[Settings], name: str) -> None:
    kind, _, known = settings_of(cls)[name]
    wrong: dict[type, list[Any]] = {
        str: [None, *([] if known.number else [1]), *([] if name == "registration" else [True])],  # see below
        int: ["1", 1.0, True, None],
        float: ["1.0", True, None],
        bool: [1, "true", None],
        dict: [[], "a: 1", None],
    }
    for value in wrong[kind]:
        with pytest.raises(ValueError, match=rf"^{name} is .*wanted: {kind.__name__}"):
            cls.from_mapping({name: value})


@each_field
def test_a_value_out_of_range_is_refused_by_name(cls: type[Settings], name: str) -> None:
    kind, _, known = settings_of(cls)[name]
    outside: list[Any] = []
    if known.choices is not None:
        outside.append("something else")
    if known.pattern is not None:
        outside += ["", "with space", "/", "a//b", "1st", "a/", "a\n"]
    if known.minimum is not None:
        outside.append(kind(known.minimum - 1))
    if known.maximum is not None:
        outside.append(kind(known.maximum + 1))
    if kind is float:
        outside.append(math.nan)
    for value in outside:
        with pytest.raises(ValueError, match=rf"^{name} is .*; wanted: (one of|at least|at most|{known.description})"):
            cls(**{name: value})
    for value in (known.minimum, known.maximum, *(known.choices or ())):
        if value is not None:
            assert getattr(cls(**{name: kind(value)}), name) == value


def test_whole_numbers_are_taken_for_floats() -> None:
    value = PipelineConfig(fill_distance=8).fill_distance
    assert value == 8.0 and type(value) is float


def test_what_yaml_makes_of_on_and_off_is_taken_for_them() -> None:
    made = [NodeConfig.from_mapping({"registration": value}).registration for value in (False, True)]
    assert made == ["off", "on"]
    with pytest.raises(ValueError, match=r"^precision is True \(bool\); wanted: str"):
        PipelineConfig.from_mapping({"precision": True})


@pytest.mark.parametrize(("given", "text"), [(4, "4"), (2.5, "2.5"), ("auto", "auto"), ("4", "4")])
def test_a_number_is_taken_for_the_text_where_one_may_be_meant(given: Any, text: str) -> None:
    assert PipelineConfig.from_mapping({"depth_resolution": given}).depth_resolution == text


@pytest.mark.parametrize(("name", "given"), [("depth_resolution", True), ("weights", 4)])
def test_elsewhere_a_number_is_no_text(name: str, given: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*; wanted: str"):
        PipelineConfig.from_mapping({name: given})


@each_class
def test_a_name_that_is_no_setting_is_refused_and_the_names_are_listed(cls: type[Settings]) -> None:
    with pytest.raises(ValueError, match="unknown setting colour, depht; known: ") as raised:
        cls.from_mapping({"depht": 1, "colour": 2})
    assert all(name in str(raised.value) for name in settings_of(cls))
    with pytest.raises(ValueError, match="unknown setting 3; known: "):
        cls.from_mapping({3: 1})  # type: ignore[dict-item]  # what a YAML file can hold


@each_class
def test_settings_cannot_be_changed_in_place(cls: type[Settings]) -> None:
    made = cls()
    name = next(iter(settings_of(cls)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, name, getattr(made, name))


def test_replace_checks_again() -> None:
    with pytest.raises(
        ValueError, match="precision is 'float64'; wanted: one of 'auto', 'float32', 'bfloat16', 'float16', 'int8'"
    ):
        dataclasses.replace(PipelineConfig(), precision="float64")


def test_instances_do_not_share_their_mappings() -> None:
    first, second = TrainingConfig(), TrainingConfig()
    first.options["n1"] = 8
    assert second.options == {} and TrainingConfig().options == {}


def test_no_setting_of_node_and_pipeline_has_the_same_name() -> None:
    """They are parameters of one node."""
    assert not set(settings_of(NodeConfig)) & set(settings_of(PipelineConfig))


@pytest.mark.parametrize(
    ("cls", "low", "high"),
    [(PipelineConfig, "min_depth", "max_depth"), (NodeConfig, "preview_near", "preview_far")],
    ids=["depth", "preview"],
)
def test_limits_that_leave_nothing_between_them_are_refused(cls: type[Settings], low: str, high: str) -> None:
    """All depth would be invalid, without a word."""
    with pytest.raises(ValueError, match=rf"^{low} is 3.0 and {high} is 2.0; wanted: {low} below {high}, or 0"):
        cls.from_mapping({low: 3.0, high: 2.0})
    for near, far in ((2.0, 3.0), (3.0, 0.0), (0.0, 2.0)):  # 0 is no limit
        cls.from_mapping({low: near, high: far})
