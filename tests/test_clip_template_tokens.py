"""Token lengths of templates: counted on the filled prompts, and refused where one does not fit the context."""

import pytest

from helpers.clip_toys import shared_toy
from ipo_dspy.clip.backbone import Backbone
from ipo_dspy.clip.template_tokens import template_tokens
from ipo_dspy.clip.text_features import class_features
from ipo_dspy.errors import DataError, TemplateError
from ipo_dspy.template import Template

CLASSES = ("cat", "golden_retriever", "a very long name of a class that never seems to end")
ENSEMBLE = Template.parse("a photo of a <CLASS>.\nart of the <CLASS>.\n<CLASS>, <CLASS>!")


@pytest.fixture(scope="module")
def toy() -> Backbone:
    return shared_toy()


def test_template_tokens_count_the_longest_prompt(toy: Backbone) -> None:
    found = template_tokens(toy, ENSEMBLE, CLASSES)
    assert found.longest == max(len(ids) for name in CLASSES for ids in toy.token_ids(ENSEMBLE.fill(name)))


def test_keys_are_equal_exactly_if_the_token_ids_are(toy: Backbone) -> None:
    def key(words: str) -> str:
        return template_tokens(toy, Template.parse(words), ["cat", "dog"]).key

    assert key("A Photo of a <CLASS> .") == key("a photo of a <CLASS>.")
    assert key("a photo of a <CLASS>") != key("a photo of a <CLASS>.")
    assert key("<CLASS>") != key("<CLASS>\n<CLASS>")
    assert key("<CLASS> cat") != key("cat <CLASS>")  # equal for one of the classes only
    assert key("a <CLASS>\nthe <CLASS>") != key("the <CLASS>\na <CLASS>")


def test_too_long_names_template_class_and_by_how_much(toy: Backbone) -> None:
    template = Template.parse("a <CLASS>.\n" + "very " * 75 + "big <CLASS>.")
    message = r"'very .*' filled with class 'polar_bear' has 81 tokens and the model takes 77; .* by 4 tokens"
    for ask in (
        lambda: template_tokens(toy, template, ["cat", "polar_bear", "dog"]),
        lambda: class_features(toy, [ENSEMBLE, template], ["cat", "polar_bear", "dog"]),
    ):
        with pytest.raises(TemplateError, match=message) as caught:
            ask()
        assert caught.value.reason == "too long"


def test_no_classes(toy: Backbone) -> None:
    with pytest.raises(DataError, match="no classes"):
        template_tokens(toy, ENSEMBLE, [])
