"""A classifier for other programs: arrays in and out, plain numbers, export to other formats, the Hub."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ipo_dspy._internal.file_kinds import PROGRAM_FILE
from ipo_dspy.argument_checks import one_of
from ipo_dspy.classifier.encoding_predictor import EncodingPredictor
from ipo_dspy.classifier.image_lists import image_list
from ipo_dspy.classifier.labeled_predictor import STATE_KEY
from ipo_dspy.clip.bundled import BUNDLED
from ipo_dspy.clip.model_spec import local_files
from ipo_dspy.errors import DataError, ImageError, InputError, ModelError
from ipo_dspy.export import FORMATS, check_target, write
from ipo_dspy.export.onnx import OPSET, check_onnx
from ipo_dspy.export.weights import ClassWeights
from ipo_dspy.program_files import state_bytes
from ipo_dspy.scoring.label_sets import PRESENT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ipo_dspy.clip.crops import Boxes
    from ipo_dspy.hub.card import Evaluation

_BLOCK = 8192
"""Images whose features are multiplied at once."""


class PortablePredictor(EncodingPredictor):
    """An encoding predictor that other libraries, runtimes and people can use."""

    def predict(self, images: Any, *, crops: "Boxes | None" = None) -> "NDArray[Any]":
        """Return the labels [N] of many images as an array, as in scikit-learn.

        They are the same as in single calls: a calibration applies, and images below its threshold get its unknown
        label.

        Args:
            images: a list of images in any form that a call accepts, an array [N, H, W, 3] or a tensor [N, 3, H, W]
                of them, or an array of paths; with `crops` one image.
            crops: boxes [N, 4] of that image to classify, in pixels: x0, y0, x1, y1, as detectors give them.

        Returns:
            The labels, [N]. With `multi_label=True` zeros and ones [N, C], a column for each of `classes`.

        Raises:
            ImageError: images that cannot be read; all of them are named at once.
            InputError: boxes that are empty or not in the image.
            DataError: no class names.
            TemplateError: the instructions are not a template.

        >>> from ipo_dspy import demo
        >>> task = demo.load("pixel-animals", shots=1)
        >>> images = [example.image for example in task.testset[:3]]
        >>> list(task.program.predict(images)) == [task.program(image=image).label for image in images]
        True
        """
        weights, rows, scores = self.weights_and_probabilities(images, crops=crops)
        if self.multi_label:
            return (rows >= PRESENT).astype(np.int64)
        labels = weights.labels_of(rows, scores)
        return np.array(labels, dtype=object if None in labels else str)

    def predict_proba(self, images: Any, *, crops: "Boxes | None" = None) -> "NDArray[np.float64]":
        """Return the probabilities [N, C] of many images, a column for each of `classes`; arguments as for `predict`.

        They are the same as in single calls, after temperature and class weights. With `multi_label=True`
        they are independent, and rows do not add up to 1.

        Raises:
            ImageError, InputError, DataError, TemplateError: as for `predict`.
        """
        return self.weights_and_probabilities(images, crops=crops)[1]

    def weights_and_probabilities(
        self, images: Any, *, crops: "Boxes | None" = None
    ) -> "tuple[ClassWeights, NDArray[np.float64], NDArray[np.float64]]":
        """Return `class_weights()`, `predict_proba(images)`, and the scores [N] that are compared with the threshold.

        The weights are computed once for all three.
        """
        if self.classes is None:
            raise DataError("a classifier without class names has no columns; use ClipClassifier(classes=[...])")
        weights = self.class_weights()
        if crops is None:
            pictures = image_list(images, "images")
        else:
            from ipo_dspy.clip.crops import crop

            pictures = crop(images, crops, allow_url=self.allow_url)
        if not pictures:
            return weights, np.empty((0, len(self.classes))), np.empty(0)
        try:
            features = self._encoded(pictures, skip_unreadable=False).features.numpy()  # [N, D]
        except ImageError as error:
            raise ImageError(error.fact, hint=error.hint and "leave out what cannot be read") from error
        blocks = [features[start : start + _BLOCK] for start in range(0, len(features), _BLOCK)]
        rows, scores = (np.concatenate([*map(each, blocks)]) for each in (weights.probabilities, weights.scores))
        return weights, rows, scores

    @property
    def scored_parts(self) -> dict[str, Any]:
        """Template, model, texts, and calibration, on which an evaluation depends; it applies no threshold."""
        template, classes = self.template, self.classes or ()
        scaling = self.scaling_of(template, classes)
        factors = (scaling.temperature, *scaling.log_weights.tolist())
        return {
            "template": str(template),
            "model": self.backbone.fingerprint,
            "classes": self.class_texts,
            "calibration": factors if self._is_calibrated_for(template, classes) else None,
        }

    def class_weights(self) -> ClassWeights:
        """Return the classifier as plain numbers: class embeddings, calibration, preprocessing, and the model's name.

        Raises:
            DataError: no class names.
            TemplateError: the instructions are not a template.
            ModelError: weights that are not available.
        """
        from ipo_dspy.clip.text_features import class_features

        if (classes := self.classes) is None:
            raise DataError("a classifier without class names cannot be exported; use ClipClassifier(classes=[...])")
        template, texts, backbone = self.template, self.texts_of(classes), self.backbone
        scaling = self.scaling_of(template, classes)
        calibration = self._calibration_for(template, classes)
        return ClassWeights(
            labels=classes,
            class_embeddings=class_features(backbone, [template], texts)[0].numpy(),
            logit_scale=backbone.logit_scale,
            logit_bias=backbone.logit_bias,
            temperature=scaling.temperature,
            class_weights=np.exp(scaling.log_weights),
            threshold=0.0 if calibration is None else calibration.threshold,
            threshold_score="confidence" if calibration is None else calibration.threshold_score,
            unknown_label=None if calibration is None else calibration.unknown_label,
            multi_label=self.multi_label,
            template=template.lines,
            class_texts=texts,
            preprocessing=backbone.preprocessing,
            model={**backbone.identity, "model": self.model_name},
        )

    def export(self, path: str | os.PathLike[str], *, format: str, opset: int | None = None) -> None:
        """Write the classifier for other programs to a file, or to a folder for a format of several files.

        An existing file is replaced, and a folder that has the files of the format.

        Args:
            path: the file, or the folder, in an existing folder.
            format: one of `ipo_dspy.export.FORMATS`, e.g. `safetensors`.
            opset: opset version of `onnx`; a runtime may not support the default, 18, or prefer a later one.

        Raises:
            InputError: an unknown format, one that cannot hold the classifier, or a missing package.
            ProgramFileError: the path cannot be written, or is a folder with other files.
            DataError, TemplateError, ModelError: as for `class_weights`, or the format cannot hold the model, or its
                image encoder was replaced.
        """
        one_of("format", format, FORMATS)
        if opset is not None and format != "onnx":
            raise InputError(f"must be None for the format {format}", argument="opset", value=opset, hint="omit it")
        check_target(path, format)
        if format == "onnx":
            check_onnx(OPSET if opset is None else opset)
        if self.classes is not None:  # else `class_weights` says so, before a model is loaded
            self.backbone.check_loaded()
        weights = self.class_weights()
        write(weights, self.backbone, path, format, opset)

    def push_to_hub(
        self,
        name: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        license: str | None = None,
        evaluation: "Evaluation | None" = None,
        commit_message: str = "Publish a program of ipo_dspy",
    ) -> str:
        """Publish the program on the Hugging Face Hub, with a model card, and return the URL of the commit.

        One commit holds `best.json`, as `save` writes it, and `README.md`: template, texts of the classes, model, and
        the accuracy, if known. A program returned by `IPO.compile` has the accuracy to expect on new
        images, with its interval; one that was loaded from a file, or was changed, has none.

        Args:
            name: `user/name`; the repository is created if it does not exist.
            token: Hub token with write access; that of this machine if None. It is not stored.
            private: whether a new repository is private; your Hub default if None.
            license: identifier of a license as the Hub lists them, e.g. `mit`.
            evaluation: a result of `optimizer.evaluation.evaluate` for this program, which the card shows.
            commit_message: message of the commit.

        Raises:
            ProgramFileError: the Hub does not respond, or rejects the request.
            ModelError: the model is a file or folder of one machine, which nobody else could load, or has a replaced
                image encoder.
            InputError: the evaluation is of another program.
        """
        from ipo_dspy.hub.card import evaluation_results, program_card, search_results
        from ipo_dspy.hub.repository import check_repository_name, push_files

        check_repository_name(name)
        spec, state, template = self._spec, self.dump_state(), str(self.template)
        if (local := local_files(spec)) is not None:
            hint = "publish it as well, and push the saved program with it: from_file('best.json', model='hf-hub:NAME')"
            raise ModelError("must not be on this machine only", argument="model", value=local, hint=hint)
        if self._backbone is not None:
            self._backbone.check_loaded()
        identity = state[STATE_KEY]
        identity.pop("chosen_on", None)  # whoever has an image could see whether it is among them
        details = getattr(self, "detailed_results", None)
        results = search_results(details, template, self.class_texts, identity["fingerprint"], self.is_calibrated)
        if evaluation is not None:
            calibration = self._calibration_for(self.template, self.classes or ())
            results += evaluation_results(evaluation, self.scored_parts, calibration)
        card = program_card(
            name,
            template=template,
            class_texts=self.class_texts,
            model=identity,
            results=results,
            license=license,
            needs_download=spec.model not in BUNDLED,
        )
        files = {PROGRAM_FILE: state_bytes(state), "README.md": card.encode()}
        return push_files(name, files, token=token, private=private, message=commit_message)
