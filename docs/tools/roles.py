"""What Sphinx reads in docstrings, such as :func:`trace`, in plain Markdown for the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|meth|func|mod|attr|data|exc|obj):`~?([^`]+)`")

#: The end of a line before a literal block.
LITERAL = re.compile(r"::(?=\n\n)")


class PlainRoles(griffe.Extension):
    """Replaces roles by code, and the double colon before a block by a single one."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            plain = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = LITERAL.sub(":", plain)
