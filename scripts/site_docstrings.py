"""Extension of mkdocstrings: doctests as blocks of code, and the signature of `IPO`."""

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Prepares the docstrings of the package for the site."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Put doctests in fences; Markdown would take `>>>` for a quotation."""
        if obj.docstring:
            obj.docstring.value = DOCTEST.sub(
                lambda block: f"```pycon\n{block[0].rstrip()}\n```\n", obj.docstring.value
            )

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Replace `IPO(**arguments)` by the fields of `OptimizerConfig`."""
        fields = pkg["optimizer.config.OptimizerConfig"].attributes
        init = pkg["optimizer.ipo.IPO.__init__"]
        init.parameters = griffe.Parameters(
            init.parameters["self"],
            *(
                griffe.Parameter(
                    name, kind=griffe.ParameterKind.keyword_only, annotation=field.annotation, default=field.value
                )
                for name, field in fields.items()
                if field.annotation and field.value is not None
            ),
        )
