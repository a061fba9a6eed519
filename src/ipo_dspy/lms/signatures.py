"""DSPy signatures of the requests to language models; they work with any DSPy adapter (`lms.adapters` has ours)."""

import dspy
import pydantic


class ScoredTemplate(pydantic.BaseModel):
    """An earlier prompt template and how it did on the training images; a score that is not told is None.

    `value` is that of another `objective` than accuracy and loss, in words; `missed` are points of missed recall.
    """

    template: str
    loss: float | None = None
    accuracy: float | None = None
    objective: str | None = None
    value: float | None = None
    missed: float = 0.0


class ProposeTemplates(dspy.Signature):
    """You improve prompt templates for a CLIP zero-shot image classifier.

    CLIP compares an image with one sentence per class and picks the class whose sentence fits best. A template
    is that sentence with <CLASS> where the class name goes. A good template truthfully says what the images have
    in common besides their class: medium, style, lighting, viewpoint, background, quality.
    """

    task: str = dspy.InputField(desc="what is being classified")
    look: list[str] = dspy.InputField(desc="phrases of descriptions of training images, with the share that has them")
    guessed: bool = dspy.InputField(desc="whether these are CLIP's guesses, some of them wrong")
    descriptions: list[str] = dspy.InputField(desc="descriptions of some training images, class names left out")
    progress: str = dspy.InputField(desc="step, number of images, noise of the scores, token limit")
    best: list[ScoredTemplate] = dspy.InputField(desc="the best templates so far that are unlike each other, best last")
    worst: list[ScoredTemplate] = dspy.InputField(desc="the worst templates so far")
    latest: list[ScoredTemplate] = dspy.InputField(desc="the others of the last step, best last")
    effects: list[str] = dspy.InputField(desc="what a phrase seems to add to the score (its templates)")
    untried: list[str] = dspy.InputField(desc="phrases of the descriptions that no template has held")
    pending: list[str] = dspy.InputField(desc="templates that are being scored now")
    rejected: list[str] = dspy.InputField(desc="answers that could not be used, and why")
    count: int = dspy.InputField(desc="how many new templates to write")
    templates: list[str] = dspy.OutputField(desc="new templates, each one short sentence holding <CLASS> once")


class Mistake(pydantic.BaseModel):
    """A training image that the best template gets wrong, with the probability of the predicted class."""

    image: dspy.Image
    label: str
    predicted: str
    probability: float


ProposeTemplatesFromImages = ProposeTemplates.append(
    "mistakes",
    dspy.InputField(desc="training images that the best template gets wrong, the most confident first"),
    list[Mistake],
)
"""`ProposeTemplates` for a multimodal model that is shown images."""
ProposeTemplatesFromImages.__name__ = "ProposeTemplatesFromImages"  # DSPy names a derived signature StringSignature


class ProposePrompts(dspy.Signature):
    """You improve prompt templates for a CLIP zero-shot image classifier.

    CLIP compares an image with one sentence per class and picks the class whose sentence fits best. A template
    is that sentence with <CLASS> where the class name goes. A good template truthfully says what the images have
    in common besides their class: medium, style, lighting, viewpoint, background, quality.
    """

    task: str = dspy.InputField(desc="what is being classified")
    descriptions: list[str] = dspy.InputField(desc="descriptions of some training images, class names left out")
    history: list[ScoredTemplate] = dspy.InputField(desc="earlier templates, best last")
    rejected: list[str] = dspy.InputField(desc="answers that could not be used, and why")
    count: int = dspy.InputField(desc="how many new templates to write")
    templates: list[str] = dspy.OutputField(desc="new templates, each one short sentence holding <CLASS> once")


class RewordPrompts(dspy.Signature):
    """You put prompt templates for a CLIP zero-shot image classifier into plain words.

    CLIP compares an image with one sentence per class and picks the class whose sentence fits best. A template
    is that sentence with <CLASS> where the class name goes. The templates come from a search and do about equally
    well. Say what they have in common as a person would say it of the images: short, grammatical, in everyday
    words, without contradictions or repetitions.
    """

    task: str = dspy.InputField(desc="what is being classified")
    tied: list[ScoredTemplate] = dspy.InputField(desc="templates that do about equally well, the plainest first")
    count: int = dspy.InputField(desc="how many rewordings to write at most")
    templates: list[str] = dspy.OutputField(desc="rewordings, each one short sentence holding <CLASS> once")


class ClassMistakes(pydantic.BaseModel):
    """A class with the words that stand for it now, and what its training images are taken for, most frequent first.

    Other words that were tried come with the number of images recognized, those with the lowest loss first.
    """

    label: str
    texts: list[str]
    images: int
    correct: int
    taken_for: list[str]
    tried: list[str]


class ProposeClassTexts(dspy.Signature):
    """You find the words by which a CLIP zero-shot image classifier recognizes its classes.

    CLIP compares an image with one sentence per class and picks the class whose sentence fits best. <CLASS> in the
    template stands for the words of a class. Good words are what a caption of such an image would say: a common name,
    a synonym, a more specific name, or a short description of what is visible. They must fit no other class better.
    """

    task: str = dspy.InputField(desc="what is being classified")
    template: str = dspy.InputField(desc="the template that the words are filled into")
    classes: list[ClassMistakes] = dspy.InputField(desc="the classes that lose most, the worst first")
    rejected: list[str] = dspy.InputField(desc="answers that could not be used, and why")
    count: int = dspy.InputField(desc="how many texts to write for each of these classes at most")
    texts: list[str] = dspy.OutputField(desc="'label: text | text | text' for each of these classes")


ProposeClassTextsFromImages = ProposeClassTexts.append(
    "mistakes", dspy.InputField(desc="training images that are taken for another class"), list[Mistake]
)
"""`ProposeClassTexts` for a multimodal model that is shown images."""
ProposeClassTextsFromImages.__name__ = "ProposeClassTextsFromImages"


class ReviseTemplate(dspy.Signature):
    """You improve the prompt template of a CLIP zero-shot image classifier.

    CLIP compares an image with one sentence per class and picks the class whose sentence fits best. A template
    is that sentence with <CLASS> where the class name goes. A good template truthfully says what the images have
    in common besides their class: medium, style, lighting, viewpoint, background, quality.
    """

    current_template: str = dspy.InputField(desc="the template now")
    feedback: list[str] = dspy.InputField(desc="how images were classified with it, and with what probabilities")
    template: str = dspy.OutputField(desc="a better template, one short sentence holding <CLASS> once")


class DescribeImage(dspy.Signature):
    """Describe in one or two sentences how this image looks.

    Say what a photographer or painter would: medium, style, lighting, viewpoint, colours, texture, background,
    quality. Do not name the main subject; call it "the subject".
    """

    image: dspy.Image = dspy.InputField()
    description: str = dspy.OutputField(desc="how the image looks, without naming its subject")


class SummarizeDescriptions(dspy.Signature):
    """Say in few words how the images of a data set look, from descriptions of some of them.

    Keep what many have in common and what sets groups of them apart: medium, style, lighting, viewpoint, colours,
    texture, background, quality. Say how often each occurs.
    """

    descriptions: list[str] = dspy.InputField()
    words: int = dspy.InputField(desc="how many words the summary may have in all")
    summary: list[str] = dspy.OutputField(desc="one sentence for each thing to know")
