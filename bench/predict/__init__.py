"""`python -m bench.predict`; imported, it is what it stands in for in a program: the function `bench.predict`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class _Callable(ModuleType):
    """A package that is called: importing one sets it as an attribute of `bench`, in the function's place."""

    def __call__(self, *args: Any, **settings: Any) -> Tensor:
        """See `bench.measure.loaded.predict`."""
        from bench.measure.loaded import predict

        return predict(*args, **settings)


sys.modules[__name__].__class__ = _Callable
