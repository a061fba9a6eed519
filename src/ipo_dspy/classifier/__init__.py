"""`ClipClassifier`: zero-shot CLIP as a `dspy.Predict` whose instructions are the prompt template."""

from ipo_dspy.classifier.predictions import Classification as Classification
from ipo_dspy.classifier.predictions import ClassifyAmong as ClassifyAmong
from ipo_dspy.classifier.predictions import ClassifyImage as ClassifyImage
from ipo_dspy.classifier.predictions import LabelAmong as LabelAmong
from ipo_dspy.classifier.predictions import LabelImage as LabelImage
from ipo_dspy.classifier.program import ClipClassifier as ClipClassifier
