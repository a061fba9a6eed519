"""`ClipEstimator` among scikit-learn's own tools: its checks of estimators, pipelines, cross-validation, digits."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from ipo_dspy.classifier import ClipClassifier
from ipo_dspy.clip.image_features import open_image
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import DataError, ImageError, InputError
from ipo_dspy.integrations.sklearn import ClipEstimator

SHOTS = 4
AS_IT_IS = {"steps": 0, "proposer": "evolution", "progress": False}
SEARCH = {**AS_IT_IS, "steps": 3}

# Each row of numbers is read as an image of one line of pixels, so that the checks can choose their number. All of them
# are expected to pass. The tag `poor_score` says that labels such as "0" are no words for random numbers.
CHECKED = ClipEstimator(model="demo", device="cpu", ipo=AS_IT_IS, image_shape=(1, -1))


@pytest.mark.end_to_end
@parametrize_with_checks([CHECKED])  # type: ignore[untyped-decorator]
def test_the_checks_of_scikit_learn_pass(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def paths(task: DemoTask, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    """Image files of five classes, and their labels."""
    folder = tmp_path_factory.mktemp("images")
    chosen = [example for example in task.trainset if example.label in task.classes[:5]]
    for i, example in enumerate(chosen):
        open_image(example.image).save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in range(len(chosen))], [example.label for example in chosen]


def test_a_template_is_searched_and_predicts_as_the_classifier_does(paths: tuple[list[str], list[str]]) -> None:
    images, labels = paths
    plain = ClipEstimator(model="demo", ipo=AS_IT_IS).fit(images, labels)
    found = ClipEstimator(model="demo", ipo=SEARCH).fit(np.array(images), np.array(labels))
    assert plain.template_ == "a photo of a <CLASS>."
    kept = ClipEstimator(model="demo", ipo={"steps": 0, "progress": False}).fit(images, labels)  # no language model
    assert kept.template_ == plain.template_
    assert found.template_ != plain.template_
    assert found.score(images, labels) > plain.score(images, labels)
    assert found.classes_.tolist() == sorted(set(labels))
    program = ClipClassifier(sorted(set(labels)), template=found.template_, model="demo")
    assert found.predict(images).tolist() == program.predict(images).tolist()
    assert found.predict_proba(images) == pytest.approx(program.predict_proba(images))


def test_it_is_a_step_of_pipelines_and_searches(paths: tuple[list[str], list[str]]) -> None:
    images, labels = paths
    pipeline = make_pipeline(
        FunctionTransformer(lambda names: [Path(name).read_bytes() for name in names]),
        ClipEstimator(model="demo", ipo=AS_IT_IS, template="a black and white picture of a <CLASS>."),
    )
    scores = cross_val_score(pipeline, images, labels, cv=2)
    assert scores.shape == (2,)
    assert scores.min() > 0
    grid = {"template": ["a photo of a <CLASS>.", "a black and white picture of a <CLASS>."]}
    search = GridSearchCV(ClipEstimator(model="demo", ipo=AS_IT_IS), grid, cv=2).fit(np.array(images), labels)
    assert search.best_params_["template"] == grid["template"][1]
    assert search.predict(images[:2]).shape == (2,)


def test_copies_and_pickles_predict_the_same(paths: tuple[list[str], list[str]], tmp_path: Path) -> None:
    images, labels = paths
    fitted = ClipEstimator(model="demo", ipo={**SEARCH, "steps": 1}).fit(images, labels)
    expected = fitted.predict_proba(images)
    data = pickle.dumps(fitted)
    assert len(data) < 5000
    assert pickle.loads(data).predict_proba(images) == pytest.approx(expected)
    fitted.classifier_.save(tmp_path / "best.json")
    saved = ClipClassifier.from_file(tmp_path / "best.json")
    assert saved.predict_proba(images) == pytest.approx(expected)
    with pytest.raises(NotFittedError):
        _ = clone(fitted).classifier_


def test_pixels_of_a_data_set_and_numbers_as_labels() -> None:
    digits = load_digits(n_class=3)
    texts: dict[int, str | list[str]] = {0: "zero", 1: ["one", "number one"], 2: "two"}
    estimator = ClipEstimator(model="demo", ipo=AS_IT_IS, class_texts=texts, image_shape=(8, 8))
    estimator.fit(digits.data[:30] / 16, digits.target[:30])
    assert (estimator.n_features_in_, estimator.class_texts_) == (64, [("zero",), ("one", "number one"), ("two",)])
    predicted = estimator.predict(digits.data[:10] / 16)
    assert (predicted.dtype.kind, set(predicted.tolist()) <= {0, 1, 2}) == ("i", True)
    images = (digits.images[:10] / 16).astype(np.float64)
    program = ClipClassifier({str(label): text for label, text in texts.items()}, model="demo")
    assert predicted.tolist() == [int(label) for label in program.predict(list(images))]


def test_errors_are_clear(paths: tuple[list[str], list[str]]) -> None:
    images, labels = paths
    with pytest.raises(DataError, match="y must have at least two classes, got one class, 'cat'"):
        ClipEstimator(model="demo").fit(images[:2], ["cat", "cat"])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        ClipEstimator(model="demo").fit(images, labels[:-1])
    with pytest.raises(ImageError, match=r"X must be a list of images, got one image"):
        ClipEstimator(model="demo").fit(images[0], labels[:1])
    with pytest.raises(InputError, match=r"image_shape must fit the 64 features of X, got \(9, 9\); for example"):
        ClipEstimator(model="demo", image_shape=(9, 9)).fit(np.zeros((4, 64)), [0, 1, 0, 1])
    with pytest.raises(
        InputError, match="image_shape must be the shape of an image if X is a table of pixels, got None"
    ):
        ClipEstimator(model="demo").fit(np.zeros((4, 64)), [0, 1, 0, 1])
    with pytest.raises(
        InputError, match="class_texts must be given for names of classes, got 'catt'; use one of the 5"
    ):
        ClipEstimator(model="demo", class_texts={"catt": "kitten"}).fit(images, labels)
    with pytest.raises(InputError, match=r"names of classes, got 0; use one of the 2 classes \('0', '1'\)"):
        ClipEstimator(model="demo", class_texts={0: "kitten"}).fit(images[:2], ["0", "1"])
    with pytest.raises(TypeError, match="stepps"):
        ClipEstimator(model="demo", ipo={"stepps": 3}).fit(images, labels)


def test_without_scikit_learn_the_error_names_it() -> None:
    code = "import sys; sys.modules['sklearn'] = None; import ipo_dspy.integrations.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "scikit-learn 1.6 or later must be installed for ClipEstimator; run pip install -U" in done.stderr
