"""Metrics for DSPy's optimizers, on predictions of a real classifier."""

import dspy
import pytest

from ipo_dspy import ClipClassifier, demo
from ipo_dspy.metrics import feedback


def test_the_score_is_the_accuracy(task: demo.DemoTask) -> None:
    examples = list(task.testset)[::20]
    evaluate = dspy.Evaluate(devset=examples, metric=feedback, num_threads=1)
    right = [example.label == task.program(image=example.image).label for example in examples]
    assert 0 < sum(right) < len(right)
    assert evaluate(task.program).score == pytest.approx(100 * sum(right) / len(right), abs=0.01)


def test_the_feedback_has_the_classes_and_their_probabilities(task: demo.DemoTask) -> None:
    program = ClipClassifier(task.classes, model="demo", top_k=len(task.classes))
    for example in list(task.testset)[::20]:
        pred = program(image=example.image)
        (best, p), (second, q) = list(pred.scores.items())[:2]
        if example.label == best:
            said = f"An image of {best} was classified correctly, {p:.2f} against {q:.2f} for {second}."
        else:
            share = f"{pred.scores[example.label]:.2f}"
            said = f"An image of {example.label} was taken for {best}, {p:.2f} against {share}."
        assert feedback(example, pred).feedback == said


def test_with_the_best_class_only(task: demo.DemoTask) -> None:
    classifier = ClipClassifier(task.classes, model="demo", top_k=1)
    pred = classifier(image=task.testset[0].image)
    other = next(name for name in task.classes if name != pred.label)
    p = f"{pred.confidence:.2f}"
    right, wrong = (feedback(dspy.Example(label=name), pred).feedback for name in (pred.label, other))
    assert right == f"An image of {pred.label} was classified correctly, {p}."
    assert wrong == f"An image of {other} was taken for {pred.label}, {p} against at most {p}."


def test_instructions_that_are_not_a_template(task: demo.DemoTask) -> None:
    classifier = task.program.deepcopy()
    classifier.signature = classifier.signature.with_instructions("Look hard.")
    given = feedback(task.testset[0], classifier(image=task.testset[0].image))
    assert given.score == 0.0
    assert given.feedback.endswith("was not classified: every line of the instructions must contain <CLASS>.")


def test_the_label_of_unknown_images_is_not_among_the_scores(task: demo.DemoTask) -> None:
    unsure = task.program.calibrate(task.trainset, threshold=1.0, unknown_label="other")
    pred = unsure(image=task.testset[0].image)
    assert pred.label == "other"
    known, unknown = (feedback(dspy.Example(label=label), pred) for label in (task.testset[0].label, "other"))
    assert (known.score, unknown.score) == (0.0, 1.0)
    assert "was not classified: it is below the threshold, with" in known.feedback
    assert "An image of other was classified correctly: it is below the threshold, with" in unknown.feedback


def test_names_are_escaped_and_bounded() -> None:
    pred = dspy.Prediction(label="b\x1b[2J\nc", scores={"b\x1b[2J\nc": 0.7})
    text = feedback(dspy.Example(label=f"{'a word ' * 20_000}"), pred).feedback
    assert "taken for b[U+001B][2J c, 0.70" in text
    assert len(text) < 250
