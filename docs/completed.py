"""An extension of Griffe: functions and modules as they are once the package is imported.

Griffe reads the source, where arguments that a module inherits from torch's are not seen, nor what the import adds to
docstrings.
"""

from __future__ import annotations

import inspect
from typing import Any

from griffe import Class, Extension, Function, Object, Parameter, ParameterKind, Parameters

from fastact import functional, modules

PLACES = {place.__name__: place for place in (functional, modules)}


class Completed(Extension):
    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        place = PLACES.get(obj.parent.path) if obj.parent is not None else None
        if obj.docstring is None or place is None:
            return
        imported = getattr(place, obj.name)
        obj.docstring.value = inspect.getdoc(imported) or ""
        if isinstance(obj, Class) and "__init__" not in obj.members:
            obj["__init__"] = _inherited(imported)


def _inherited(cls: type) -> Function:
    signature = inspect.signature(cls.__init__)
    parameters = (
        Parameter(
            each.name,
            kind=ParameterKind[each.kind.name.lower()],
            annotation=None if each.annotation is each.empty else inspect.formatannotation(each.annotation),
            default=None if each.default is each.empty else repr(each.default),
        )
        for each in signature.parameters.values()
    )
    return Function("__init__", parameters=Parameters(*parameters))
