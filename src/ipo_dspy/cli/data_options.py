"""Options for reading data, and the training, validation and test images that result from them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

from typer import Option

from ipo_dspy._internal.counts import first_few, pluralize
from ipo_dspy._internal.untrusted import one_line
from ipo_dspy.cli import output as show
from ipo_dspy.errors import DataError, InputError

if TYPE_CHECKING:
    from ipo_dspy.class_texts import LabeledTexts
    from ipo_dspy.classifier import ClipClassifier
    from ipo_dspy.data import DataOptions, ImageDataset

# Parameters are named like the readers' arguments, so that messages can show the option of each argument.
ClassTexts = Annotated[
    Path | None,
    Option(
        "--class-texts",
        metavar="FILE",
        help="Texts to use in place of class names in prompts: JSON with a text or a list of texts for each label, "
        "CSV with the columns label and text, or a saved program. Other classes keep their name, or the texts of the "
        "program.",
    ),
]


@dataclass(frozen=True)
class ImageOptions:
    """Options for reading labeled images."""

    image: Annotated[str | None, Option("--image-column", help="Column of the images in a table.")] = None
    label: Annotated[str | None, Option("--label-column", help="Column of the labels in a table.")] = None
    base: Annotated[str | None, Option(help="Base folder of relative image paths in a table.")] = None
    classes: Annotated[
        str | None,
        Option(help="Class names in the order of integer labels: a,b,c, or a text file with one name per line."),
    ] = None
    split: Annotated[
        str | None, Option(help="Part to read of data that is already split; all reads all rows of a table.")
    ] = None

    @property
    def arguments(self) -> "DataOptions":
        """The readers' arguments that were passed."""
        options: DataOptions = {name: value for name, value in vars(self).items() if value is not None}  # type: ignore[assignment]
        if self.classes is not None:
            options["classes"] = _names(self.classes)
        return options

    def read_part(
        self, data: Path, *roles: str, multi_label: bool = False, known: Sequence[str] | None = None
    ) -> "ImageDataset":
        """Read data. If it is already split, read the first of these parts that it has, and print a note.

        The last of `roles` must be "training", which all split data has. With `multi_label` labels are lists, of the
        `known` classes unless the options name others.
        """
        from ipo_dspy.data import load_images, load_label_sets

        load, options = load_label_sets if multi_label else load_images, self.arguments
        if multi_label and known is not None:
            options.setdefault("classes", known)
        parts = _find_parts(data, options)
        if not parts:
            return load(data, **options)
        role = next(role for role in roles if role in parts)
        show.note(f"{data} is already split; its {role} part is used, {parts[role]['split']!r} (--split takes another)")
        return load(data, **parts[role])


@dataclass(frozen=True, slots=True)
class DataSets:
    """Images of a run.

    `has_spare` is True if `--shots all` would let more images decide.
    """

    train: "ImageDataset"
    validation: "ImageDataset | None"
    tests: "Mapping[str, ImageDataset]"
    has_spare: bool = False

    def __str__(self) -> str:
        """Return the numbers of classes and images."""
        tested = sum(map(len, self.tests.values()))
        chosen = 0 if self.validation is None else len(self.validation)
        counts = f"{len(self.train)} training, {chosen} validation, {tested} test images"
        return f"{len(self.train.classes)} classes; {counts}"


@dataclass(frozen=True)
class SplitOptions:
    """Options for splitting images into training, validation, and test images."""

    shots: Annotated[str, Option(metavar="N|all", help="Training images per class.")] = "16"
    test: Annotated[
        float | None,
        Option(
            help="Fraction or number of images held out for the final test; 0 for no test. By default the test part of "
            "DATA, or 0.5."
        ),
    ] = None
    val: Annotated[
        str | None,
        Option(
            metavar="DATA|none",
            help="Validation images that select the final template: a folder, a table, or none. By default the "
            "validation part of DATA, or else images that are not used for training or testing, at most --shots per "
            "class.",
        ),
    ] = None
    test_data: Annotated[Path | None, Option(help="Images for the final test, instead of a part of DATA.")] = None
    min_images: Annotated[int, Option(min=1, help="Skip classes with fewer images than this.")] = 1
    multi_label: Annotated[
        bool,
        Option(
            "--multi-label",
            help="Images have several labels or none, separated by | or ; in a table. A class folder is one label; "
            "images of folders that --classes leaves out have none. --shots draws images by their rarest label. Needs "
            "a SigLIP, trained with a sigmoid loss, e.g. --model ViT-B-16-SigLIP --pretrained webli.",
        ),
    ] = False

    @property
    def per_class(self) -> int | None:
        """Number of training images per class; None for all."""
        if self.shots.lower() == "all":
            return None
        if not self.shots.isdecimal() or int(self.shots) < 1:
            raise InputError("must be an integer of at least 1, or all", argument="shots", value=self.shots)
        return int(self.shots)

    def read(self, data: Path, images: ImageOptions, *, seed: int, halves: bool) -> DataSets:
        """Read data and split it, unless it is already split."""
        from ipo_dspy.data import base_novel, label_sets_catalog, load_images, load_label_sets, open_images

        if self.multi_label and halves:
            raise InputError("--multi-label cannot be used with --base-novel, which divides images by their class")
        if self.multi_label and self.min_images > 1:
            hint = "omit it"
            raise InputError("must be 1 with --multi-label", argument="min_images", value=self.min_images, hint=hint)
        options = images.arguments
        parts = _find_parts(data, options)
        if parts:
            show.note(f"{data} is already split; used by its parts: {', '.join(parts)}")
        part = parts.get("training", options)
        if self.multi_label:
            catalog = label_sets_catalog(data, **part)
        else:
            catalog = open_images(data, **part).without_small_classes(self.min_images)
        has_tests = self.test_data is not None or (self.test != 0 and "test" in parts)
        if has_tests and self.test:
            hint = "remove it: the data already has test images"
            raise InputError("must be left out", argument="test", value=self.test, hint=hint)
        test = 0.0 if has_tests else 0.5 if self.test is None else self.test
        share = int(test) if test.is_integer() else test
        train, rest, held_out = catalog.split(shots=self.per_class, test=share or None, seed=seed)
        has_spare = len(catalog.labels) > len(train) + len(held_out or ())

        def load(role: str, other: str | Path | None) -> "ImageDataset":
            """Return the images of another path, or else of a part of the data."""
            source, arguments = (data, parts[role]) if other is None else (other, _for_other(Path(other), options))
            if self.multi_label:
                arguments["classes"] = train.classes
                return load_label_sets(source, **arguments)
            return _fit(load_images(source, **arguments), train.classes, role)

        if has_tests:
            held_out = load("test", self.test_data)
        validation = rest
        if self.val is not None or "validation" in parts:
            validation = None if (self.val or "").lower() == "none" else load("validation", self.val)
            has_spare = has_spare and validation is None
        _warn_of_copies(train, validation, held_out)
        if not halves:
            return DataSets(train, validation, {} if held_out is None else {"all": held_out}, has_spare)
        if held_out is None:
            raise InputError("--base-novel needs test images; set --test to a fraction, e.g. --test 0.5")
        base, novel = base_novel(train)
        tests = {"base": held_out.subset(base.classes), "novel": held_out.subset(novel.classes)}
        chosen = None if validation is None else validation.subset(base.classes)
        return DataSets(base, chosen or None, tests, has_spare)


def _find_parts(data: Path, options: "DataOptions") -> "dict[str, DataOptions]":
    """Return the options for reading each part of data that is already split; empty if the user selected one.

    Also refuse the name of a bundled task, and print which columns of a table are read unless that is obvious.
    """
    from ipo_dspy import demo
    from ipo_dspy.data import find_split
    from ipo_dspy.data.table import find_columns
    from ipo_dspy.data.table_reader import TABLE_SUFFIXES, open_table

    if not data.exists() and str(data) in demo.names():
        export = f"ipo-dspy demo {data} --export {data}"
        raise InputError(f"{str(data)!r} is a bundled task, not a folder; export its images first: {export}")
    image, label = options.get("image", "auto"), options.get("label", "auto")
    if not {"image", "label"} <= options.keys() and data.suffix.lower() in TABLE_SUFFIXES and data.is_file():
        images, labels = find_columns(open_table(data), image, label)
        if (images.casefold(), labels.casefold()) != ("image", "label"):
            show.note(f"{data}: images from column {images!r}, labels from column {labels!r}")
    parts = None if "split" in options else find_split(data, image=image, label=label)
    return {role: {**options, "split": name} for role, name in (parts or {}).items()}


def _warn_of_copies(train: "ImageDataset", validation: "ImageDataset | None", test: "ImageDataset | None") -> None:
    """Print how many images occur in more than one set; the user decides which copies to remove."""
    from ipo_dspy.data.duplicates import find_copies

    seen, names = list(train), "training"
    for name, images in (("validation", validation), ("test", test)):
        if images is None:
            continue
        copies = find_copies(images, seen)
        if same := [copy for copy in copies if copy.image == copy.original]:
            fact = f"{pluralize(len(same), f'{name} image')} also read as {names} images, e.g. {same[0].image!r}"
            show.note(f"{fact}: the {name} accuracy is too high; use other images")
        if identical := [copy for copy in copies if copy.image != copy.original]:
            fact = f"found {pluralize(len(identical), f'{name} image')} identical to {names} images"
            example = f"{identical[0].image!r} and {identical[0].original!r}"
            show.note(f"{fact}, e.g. {example}: the {name} accuracy is too high; remove the copies")
        seen, names = [*seen, *images], f"{names} or {name}"


def _for_other(place: Path, options: "DataOptions") -> "DataOptions":
    """Return the options for other data; a folder of class folders takes none."""
    applicable = {name: value for name, value in options.items() if name != "split" and not place.is_dir()}
    return applicable  # type: ignore[return-value]  # a part of the mapping


def _fit(dataset: "ImageDataset", classes: Sequence[str], name: str) -> "ImageDataset":
    """Return images with the class names and order of the training images; images of other classes are dropped."""
    dataset = dataset.spelled_as(classes)
    common = [label for label in classes if label in dataset.classes]
    others = [label for label in dataset.classes if label not in classes]
    if not common:
        theirs, ours = (", ".join(map(repr, names[:3])) for names in (dataset.classes, classes))
        raise InputError(
            f"the {name} images have the classes {theirs}, ..., the training images {ours}, ...; use the same names"
        )
    if others:
        fact = f"the {name} images of {pluralize(len(others), 'class')} without training images are left out"
        show.note(f"{fact}: {', '.join(others[:5])}")
    subset = dataset.subset(common)
    counts = subset.counts()
    if without := [label for label in classes if not counts.get(label)]:
        show.note(f"no {name} images of {pluralize(len(without), 'class')}: {', '.join(without[:5])}")
    return type(dataset)(subset, classes=tuple(classes))


def check_known(
    dataset: "ImageDataset", classifier: "ClipClassifier", data: Path, *, remedy: str, role: str = "program"
) -> "ImageDataset":
    """Return images with a classifier's spelling of their classes, after checking that it has all of these."""
    dataset = dataset.spelled_as(classifier.classes or ())
    if foreign := [name for name in dataset.classes if name not in (classifier.classes or dataset.classes)]:
        fact = f"{data} has images of {pluralize(len(foreign), 'class')} that the {role} does not have"
        raise DataError(f"{fact} ({first_few(foreign, 3)}); {remedy}")
    return dataset


def with_texts(
    labels: Sequence[str],
    path: Path | None,
    others: Sequence[str] = (),
    saved: Mapping[str, Sequence[str]] = MappingProxyType({}),
    candidates: Collection[str] = (),
) -> "LabeledTexts":
    """Return labels with the texts of a file, for `ClipClassifier`.

    Args:
        labels: labels of the classifier.
        path: file with class texts, if there is one.
        others: labels of the data that the classifier does not have, such as novel classes; their texts are ignored.
        saved: texts of labels that the file leaves out; without, these are read as they are.
        candidates: labels for which other texts will be tried.
    """
    from ipo_dspy.class_texts import check_texts, hard_names, load_class_texts

    texts = {} if path is None else load_class_texts(path)
    if ignored := [label for label in texts if label in others and label not in labels]:
        show.note(f"the texts of {pluralize(len(ignored), 'class')} that are not searched are ignored: {ignored[0]}")
    checked = check_texts(labels, {**saved, **{label: given for label, given in texts.items() if label not in ignored}})
    if path is not None:
        shown = first_few([f"{label}: {' + '.join(given)}" for label, given in checked.items()], 2)
        count = f"{len(checked)} of {pluralize(len(labels), 'class')}"
        show.note(f"class texts  {count}" + (f" ({one_line(shown, 120)})" if shown else ""))
    if hard := hard_names(label for label in labels if label not in checked and label not in candidates):
        show.note(
            f"CLIP may not understand {pluralize(len(hard), 'class name')} ({first_few(list(map(repr, hard)), 3)}); "
            "pass English words for them with --class-texts FILE"
        )
    return labels if path is None else {label: checked.get(label, label) for label in labels}


def _names(text: str) -> list[str]:
    """Return comma-separated class names, or the lines of a file."""
    path = Path(text).expanduser()
    if not path.is_file():
        return [name.strip() for name in text.split(",")]
    from ipo_dspy._internal.file_io import read_regular

    try:
        lines = read_regular(path, limit=1 << 24).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--classes {text!r} cannot be read ({error}); use a text file in UTF-8") from error
    return [line.strip() for line in lines if line.strip()]
