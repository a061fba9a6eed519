"""The configuration of the optimizer: validated once, frozen, copied whole; earlier names of arguments still work."""

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import dspy
import pytest

from ipo_dspy import IPO, EvolutionProposer, LMDescriber, LMProposer
from ipo_dspy._internal.renames import OLD_ARGUMENTS
from ipo_dspy.errors import InputError
from ipo_dspy.optimizer.config import OptimizerConfig


class Backend:
    """A scoring backend that is never asked."""

    def check(self, backbone: Any) -> None:
        raise NotImplementedError


def test_the_optimizer_has_the_signature_of_its_configuration() -> None:
    arguments = inspect.signature(IPO).parameters
    assert {name: one.default for name, one in arguments.items()} == {
        f.name: f.default for f in fields(OptimizerConfig)
    }
    with pytest.raises(TypeError, match="unexpected keyword argument 'prefech'"):
        IPO(prefech=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        IPO("openai/gpt-4o-mini")  # type: ignore[call-arg]


def test_a_configuration_is_frozen_and_derived_by_replacing() -> None:
    config = OptimizerConfig(proposer="evolution", auto="light")
    with pytest.raises(FrozenInstanceError):
        config.steps = 3  # type: ignore[misc]
    with pytest.raises(
        AttributeError, match=r"observers is fixed when the optimizer is created; pass IPO\(observers=\.\.\.\)"
    ):
        IPO(proposer="evolution").observers = [print]
    assert (config.steps, config.auto, config.prefetch) == (20, None, False)
    assert replace(config, seed=1) == OptimizerConfig(proposer="evolution", steps=20, seed=1)


@pytest.mark.parametrize("proposer", [EvolutionProposer(), LMProposer(dspy.LM("openai/gpt-4o-mini", api_key="none"))])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_an_optimizer_is_copied_whole(copied: Any, proposer: Any) -> None:
    optimizer = IPO(proposer=proposer, steps=2, max_tokens=9, initial_templates=["a <CLASS>."])
    twin = copied(optimizer)
    twin.stop()
    assert repr(twin) == repr(optimizer)
    assert twin.config.limits == optimizer.config.limits
    assert not optimizer._stopping


OLD_VALUES: dict[str, Any] = {
    "overlap": True,
    "max_descriptions": 3,
    "task": "Distinguish cats from dogs.",
    "scorer": Backend(),
    "allow_changes": True,
    "skip_bad": True,
    "max_errors": 5,
}


@pytest.mark.parametrize("old", OLD_ARGUMENTS)
def test_an_earlier_name_of_an_argument_is_accepted_with_a_warning(old: str) -> None:
    new = OLD_ARGUMENTS[old]
    with pytest.warns(DeprecationWarning, match=rf"^{old}= is deprecated .* use {new}=$") as caught:
        optimizer = IPO(proposer="evolution", **{old: OLD_VALUES[old]})
    assert caught[0].filename == __file__
    assert getattr(optimizer.config, new) == OLD_VALUES[old]
    with pytest.raises(TypeError, match=f"{old} is an earlier name of {new}; pass {new} only"):
        IPO(proposer="evolution", **{old: OLD_VALUES[old], new: OLD_VALUES[old]})
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{old}'"):
        OptimizerConfig(**{old: OLD_VALUES[old]})


@pytest.mark.parametrize(("old", "new"), [("list", "batch"), ("draws", "samples"), ("singles", "single")])
def test_an_earlier_request_mode_is_accepted_with_a_warning(old: Any, new: str) -> None:
    message = rf"^request_mode='{old}' is deprecated .* use request_mode='{new}'$"
    with pytest.warns(DeprecationWarning, match=message) as caught:
        proposer = LMProposer(request_mode=old)
    assert (proposer.request_mode, caught[0].filename) == (new, __file__)
    with pytest.warns(DeprecationWarning, match="asking= is deprecated .* use request_mode="):
        assert LMProposer(asking=new).request_mode == new  # type: ignore[call-arg]


def test_other_earlier_names_are_accepted_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="window= is deprecated .* use history_only="):
        assert EvolutionProposer(window=True).history_only  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match="max_errors= is deprecated .* use max_consecutive_errors="):
        assert LMDescriber(max_errors=7).max_consecutive_errors == 7  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"proposer": "typo"}, "proposer must be one of 'lm', 'evolution', got 'typo'"),
        ({"describer": "typo"}, "describer must be one of 'auto', 'lm', 'clip', got 'typo'"),
        ({"auto": 5}, "auto must be one of 'light', 'medium', 'heavy', got 5"),
        ({"max_described_images": -1}, "max_described_images must be an integer of at least 0, got -1"),
        ({"max_consecutive_errors": 0}, "max_consecutive_errors must be an integer of at least 1, got 0"),
        ({"seed": True}, "seed must be an integer of at least 0, got True"),
        ({"task_description": 5}, "task_description must be a string or None, got 5"),
        ({"label_field": 5}, "label_field must be a string or a mapping of strings, got 5"),
        ({"initial_templates": 5}, "initial_templates must be a list of templates, 'paper' or 'imagenet-80', got 5"),
        ({"initial_templates": "papers"}, "got 'papers'; for example initial_templates='paper'"),
        ({"max_cost": 0}, "max_cost"),
    ],
)
@pytest.mark.parametrize("made", [IPO, OptimizerConfig])
def test_a_wrong_value_is_refused_at_construction(made: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(**arguments)


@pytest.mark.parametrize("name", [f.name for f in fields(OptimizerConfig) if not f.name.endswith("_model")])
def test_an_object_of_another_kind_is_refused_for_each_argument(name: str) -> None:
    """Also for an argument that is new: how a field is checked follows from its type."""
    arguments: dict[str, Any] = {name: object()}
    with pytest.raises(InputError, match=f"^{name} "):
        OptimizerConfig(**arguments)


def test_the_text_of_an_optimizer_shows_no_key() -> None:
    lm = dspy.LM("openai/gpt-4o-mini", api_key="sk-planted-key", engine="litellm")
    config = OptimizerConfig(prompt_model=lm, steps=2)
    assert repr(config) == "OptimizerConfig(prompt_model='openai/gpt-4o-mini', steps=2, prefetch=True)"
    assert "planted" not in str(config.settings())
