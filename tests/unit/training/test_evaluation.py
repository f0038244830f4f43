import numpy as np
import pytest
from sklearn import metrics as reference

from training.evaluation import Evaluation, evaluate, limits, worst_mistakes
from training.metrics import Integers, Scores

LABELS = ("cat", "dog", "höhlenbär 🐻", "never seen")


def sample(images: int = 200) -> tuple[Scores, Integers]:
    """Logits that are too sure by half; no image is of the last class."""
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 3, images)
    logits = 3 * (generator.normal(size=(images, 4)) + np.eye(4)[targets])
    return logits.astype(np.float32), targets


def test_an_evaluation_survives_json_with_its_gaps() -> None:
    logits, targets = sample()
    logits[:, 3] = -50  # so that the class is never predicted either
    evaluation = evaluate(logits, targets, LABELS, 1.7)
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation
    assert evaluation.per_class[3].f1 is None
    assert evaluation.per_class[3].support == 0
    assert evaluation.labels == LABELS


def test_figures_are_those_of_scikit_learn() -> None:
    logits, targets = sample()
    evaluation = evaluate(logits, targets, LABELS, 2.0)
    predicted = logits.argmax(axis=1)
    assert evaluation.top1 == pytest.approx(reference.accuracy_score(targets, predicted))
    assert evaluation.macro_f1 == pytest.approx(reference.f1_score(targets, predicted, average="macro"))
    assert np.array_equal(
        evaluation.confusion_matrix(), reference.confusion_matrix(targets, predicted, labels=np.arange(4))
    )
    assert evaluation.top1_standard_error == pytest.approx(np.std(predicted == targets) / np.sqrt(200))


def test_a_temperature_changes_the_probabilities_and_no_answer() -> None:
    logits, targets = sample()
    cold, warm = evaluate(logits, targets, LABELS, 1.0), evaluate(logits, targets, LABELS, 3.0)
    assert cold.calibrated == cold.uncalibrated == warm.uncalibrated
    assert warm.calibrated.nll < warm.uncalibrated.nll
    assert warm.calibrated.ece < warm.uncalibrated.ece
    assert (cold.top1, cold.top_k, cold.confusion) == (warm.top1, warm.top_k, warm.confusion)


@pytest.mark.parametrize(("classes", "k"), [(2, 2), (5, 5), (102, 5)])
def test_top_k_is_of_five_or_of_all_classes(classes: int, k: int) -> None:
    generator = np.random.default_rng(0)
    labels = tuple(map(str, range(classes)))
    evaluation = evaluate(generator.normal(size=(30, classes)), generator.integers(0, classes, 30), labels, 1.0)
    assert evaluation.k == k
    assert evaluation.top1 <= evaluation.top_k
    assert (evaluation.top_k == 1) == (classes == k)


def test_reliability_counts_every_image() -> None:
    logits, targets = sample()
    evaluation = evaluate(logits, targets, LABELS, 2.0)
    for scores in (evaluation.uncalibrated, evaluation.calibrated):
        assert sum(bin_.count for bin_ in scores.reliability) == evaluation.images
        assert all((bin_.accuracy is None) == (bin_.count == 0) for bin_ in scores.reliability)


def test_the_worst_mistakes_are_wrong_and_the_most_confident_first() -> None:
    logits, targets = sample()
    mistakes = worst_mistakes(logits, targets, 2.0, 10)
    probabilities = [mistake.probability for mistake in mistakes]
    assert len(mistakes) == 10
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(mistake.predicted == logits[mistake.index].argmax() != targets[mistake.index] for mistake in mistakes)
    assert len(worst_mistakes(logits, targets, 2.0, 1000)) == (logits.argmax(axis=1) != targets).sum()


def test_where_nothing_is_wrong_there_is_no_mistake() -> None:
    assert worst_mistakes(np.eye(4), np.arange(4), 1.0, 5) == []
    assert evaluate(np.eye(4), np.arange(4), LABELS, 1.0).top1 == 1


def test_labels_that_are_not_one_for_each_class_are_refused() -> None:
    logits, targets = sample()
    with pytest.raises(ValueError, match="4 classes have 2 labels"):
        evaluate(logits, targets, ("a", "b"), 1.0)


def test_the_limits_name_the_number_of_images_and_the_interval() -> None:
    evaluation = evaluate(*sample(), LABELS, 1.0)
    text = " ".join(limits(evaluation))
    assert "200 images" in text
    assert f"{evaluation.top1_interval[0]:.1%}" in text


def test_of_other_photos_it_is_not_said_that_they_are_like_the_training_images() -> None:
    evaluation = evaluate(*sample(), LABELS, 1.0)
    text = " ".join(limits(evaluation, "folder holidays"))
    assert "200 images of folder holidays" in text
    assert "training images" not in text
    assert "seed" not in text
