"""Options for reading data, and the training, validation and test images that result from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from ipo_dspy._internal.counts import pluralize
from ipo_dspy.cli import output as show
from ipo_dspy.errors import InputError

if TYPE_CHECKING:
    from ipo_dspy.data import DataOptions, ImageDataset

# Parameters are named like the readers' arguments, so that messages can show the option of each argument.
ImageColumn = Annotated[str | None, Option("--image-column", help="Column of the images in a table.")]
LabelColumn = Annotated[str | None, Option("--label-column", help="Column of the labels in a table.")]
Base = Annotated[str | None, Option(help="Base folder of relative image paths in a table.")]
Classes = Annotated[
    str | None, Option(help="Class names in the order of integer labels: a,b,c, or a text file with one name per line.")
]
Split = Annotated[str | None, Option(help="Part to read of data that is already split; all reads all rows of a table.")]
Shots = Annotated[str, Option(metavar="N|all", help="Training images per class.")]
Test = Annotated[
    float | None,
    Option(
        help="Fraction or number of images held out for the final test; 0 for no test. By default the test part of "
        "DATA, or 0.5."
    ),
]
Val = Annotated[
    str | None,
    Option(
        metavar="DATA|none",
        help="Validation images that select the final template: a folder, a table, or none. By default the validation "
        "part of DATA, or else images that are not used for training or testing, at most --shots per class.",
    ),
]
TestData = Annotated[Path | None, Option(help="Images for the final test, instead of a part of DATA.")]
MinImages = Annotated[int, Option(min=1, help="Skip classes with fewer images than this.")]


@dataclass(frozen=True, slots=True)
class DataSets:
    """Images of a run."""

    train: "ImageDataset"
    validation: "ImageDataset | None"
    tests: "Mapping[str, ImageDataset]"

    def summary(self, name: str) -> str:
        """Return the numbers of classes and images as text."""
        tested = sum(map(len, self.tests.values()))
        chosen = 0 if self.validation is None else len(self.validation)
        counts = f"{len(self.train)} training, {chosen} validation, {tested} test images"
        return f"{name}: {len(self.train.classes)} classes; {counts}"


def data_options(
    image: str | None, label: str | None, base: str | None, classes: str | None, split: str | None
) -> "DataOptions":
    """Return the readers' arguments from the options that were passed.

    Raises:
        InputError: the file of class names cannot be read.
    """
    values = {"image": image, "label": label, "base": base, "split": split}
    options: DataOptions = {name: value for name, value in values.items() if value is not None}  # type: ignore[assignment]
    if classes is not None:
        options["classes"] = _names(classes)
    return options


def shots_of(text: str) -> int | None:
    """Return the number of training images per class; None for all.

    Raises:
        InputError: the text is not a number of at least 1, or all.
    """
    if text.lower() == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError("must be an integer of at least 1, or all", argument="shots", value=text)
    return int(text)


def read_sets(
    data: Path,
    options: "DataOptions",
    *,
    shots: int | None,
    test: float | None,
    val: str | None,
    test_data: Path | None,
    min_images: int,
    seed: int,
    halves: bool,
) -> DataSets:
    """Read data and split it, unless it is already split.

    Raises:
        InputError: the parts have no class in common, or the data cannot be read.
    """
    from ipo_dspy.data import load_images, open_images

    _check_there(data)
    _tell_columns(data, options)
    parts = _parts(data, options)
    if parts is not None:
        show.note(f"{data} is already split; used by its parts: {', '.join(parts)}")
    main = options if parts is None else parts["training"]
    catalog = open_images(data, **main).without_small_classes(min_images)
    test_source = None if test == 0 and test_data is None else _given_tests(data, parts, test_data, options)
    if test_source is not None and test:
        hint = "remove it: the data already has test images"
        raise InputError("must be left out", argument="test", value=test, hint=hint)
    share: float = 0 if test_source is not None else 0.5 if test is None else int(test) if test.is_integer() else test
    train, rest, held_out = catalog.split(shots=shots, test=share or None, seed=seed)
    if test_source is not None:
        held_out = _fit(load_images(test_source[0], **test_source[1]), train.classes, "test")
    validation = _validation(data, val, parts, options, rest, train.classes)
    _warn_of_copies(train, validation, held_out)
    if not halves:
        return DataSets(train, validation, {} if held_out is None else {"all": held_out})
    return _halves(train, validation, held_out)


def read_part(data: Path, options: "DataOptions", *roles: str) -> "ImageDataset":
    """Read data. If it is already split, read the first of these parts that it has, and print a note.

    Args:
        data: a path of any supported kind.
        options: arguments of the reader; `split` selects a part explicitly.
        roles: parts in order of preference; the last one must be "training", which all split data has.
    """
    from ipo_dspy.data import load_images

    _check_there(data)
    _tell_columns(data, options)
    parts = _parts(data, options)
    if parts is None:
        return load_images(data, **options)
    role = next(role for role in roles if role in parts)
    show.note(f"{data} is already split; its {role} part is used, {parts[role]['split']!r} (--split takes another)")
    return load_images(data, **parts[role])


def _check_there(data: Path) -> None:
    """Refuse the name of a bundled task; the readers check all other paths."""
    from ipo_dspy import demo

    if not data.exists() and str(data) in demo.names():
        export = f"ipo-dspy demo {data} --export {data}"
        raise InputError(f"{str(data)!r} is a bundled task, not a folder; export its images first: {export}")


def _tell_columns(data: Path, options: "DataOptions") -> None:
    """Print which columns of a table are read, unless the options or the column names make it obvious."""
    from ipo_dspy.data.table import find_columns
    from ipo_dspy.data.table_reader import TABLE_SUFFIXES, open_table

    if {"image", "label"} <= options.keys() or data.suffix.lower() not in TABLE_SUFFIXES or not data.is_file():
        return
    images, labels = find_columns(open_table(data), options.get("image", "auto"), options.get("label", "auto"))
    if (images.casefold(), labels.casefold()) != ("image", "label"):
        show.note(f"{data}: images from column {images!r}, labels from column {labels!r}")


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


def _halves(train: "ImageDataset", validation: "ImageDataset | None", test: "ImageDataset | None") -> DataSets:
    from ipo_dspy.data import base_novel

    if test is None:
        raise InputError("--base-novel needs test images; set --test to a fraction, e.g. --test 0.5")
    base, novel = base_novel(train)
    chosen = None if validation is None else validation.subset(base.classes)
    return DataSets(base, chosen or None, {"base": test.subset(base.classes), "novel": test.subset(novel.classes)})


def _parts(data: Path, options: "DataOptions") -> "dict[str, DataOptions] | None":
    """Return the options for reading each part of data that is already split; None if the user selected one."""
    from ipo_dspy.data import find_split

    if "split" in options:
        return None
    names = find_split(data, image=options.get("image", "auto"), label=options.get("label", "auto"))
    return None if names is None else {role: {**options, "split": name} for role, name in names.items()}


def _given_tests(
    data: Path, parts: "dict[str, DataOptions] | None", test_data: Path | None, options: "DataOptions"
) -> "tuple[Path, DataOptions] | None":
    if test_data is not None:
        return test_data, _for_other(test_data, options)
    return None if parts is None or "test" not in parts else (data, parts["test"])


def _validation(
    data: Path,
    val: str | None,
    parts: "dict[str, DataOptions] | None",
    options: "DataOptions",
    rest: "ImageDataset | None",
    classes: Sequence[str],
) -> "ImageDataset | None":
    from ipo_dspy.data import load_images

    if val is not None and val.lower() == "none":
        return None
    if val is not None:
        return _fit(load_images(val, **_for_other(Path(val), options)), classes, "validation")
    if parts is not None and "validation" in parts:
        return _fit(load_images(data, **parts["validation"]), classes, "validation")
    return rest


def _for_other(place: Path, options: "DataOptions") -> "DataOptions":
    """Return the options for other data; a folder of class folders takes none."""
    applicable = {name: value for name, value in options.items() if name != "split" and not place.is_dir()}
    return applicable  # type: ignore[return-value]  # a part of the mapping


def _fit(dataset: "ImageDataset", classes: Sequence[str], name: str) -> "ImageDataset":
    """Return images with the class names and order of the training images; images of other classes are dropped.

    Raises:
        InputError: the sets have no class in common.
    """
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
