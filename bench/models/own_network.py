"""The user's own network: a factory in a module or a file, imported once somebody has named it and never before.

`package.module:factory` is imported as from a script in the working folder, `path/file.py:factory` from that file. A
checkpoint says the spelling, but opening it runs no code: the factory must have been named in this process, on the
command line or by a program.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Before the user's code imports torchvision.
import bench.torch_utils.torchvision_compat  # noqa: F401

# isort: split
import torch
from torch import Tensor, nn

from bench.config.values import size_text
from bench.errors import BenchError, UsageError, first_line
from bench.models.adapter import adapt
from bench.system.console import say
from bench.system.failures import is_out_of_memory
from bench.torch_utils.dry_run import blank_image
from bench.torch_utils.network_form import USUAL_SIZES, NetworkForm, form_of

OUTPUTS = ("outputs", "num_outputs", "classes", "num_classes", "n_classes", "num_labels", "out_channels")
"""Parameters of a factory that take the number of outputs; the one that its signature has is passed it."""

_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)

# The factories that were named in this process, in order.
_named: list[str] = []


def is_own(name: str) -> bool:
    """Whether a network's name is the spelling of a factory."""
    return ":" in name


def name_factory(name: str | None) -> None:
    """Says that a factory may be imported from now on, because whoever runs the program has named it.

    Names that are no factory's, and None, are let pass.
    """
    if name is not None and is_own(name) and name not in _named:
        _named.append(name)


def is_same_factory(one: str, other: str) -> bool:
    """Whether two spellings can mean one factory: `nets/mine.py:make`, `mine.py:make` and `nets.mine:make` do."""
    return _short(one) == _short(other)


def named_spelling(path: Path | str, name: str) -> str:
    """The spelling under which the factory of a file was named.

    Raises:
        BenchError: it was not, so that opening the file would run code nobody asked for; or two that it could be were.
    """
    if name in _named:
        return name
    meant = [spelling for spelling in _named if is_same_factory(spelling, name)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise BenchError(f"{path} holds a {name}, which could be {' or '.join(meant)}; name one alone")
    raise BenchError(f"{path} holds a network of code outside of this project; pass `model={name}` to have it imported")


def build_own(
    name: str,
    outputs: int,
    *,
    args: Mapping[str, Any] | None = None,
    output_key: str | int | None = None,
    input_channels: int = 3,
    pad_to: int | None = None,
    trace_size: Sequence[int] | None = None,
) -> nn.Module:
    """Builds a network by its factory, and adapts it.

    The factory is called with `args`, and with the number of outputs as that parameter of `OUTPUTS` which its signature
    has, unless one of them is among `args`. A factory that has none must give the right number by itself.

    Args:
        name: the spelling of the factory.
        outputs: channels of the logits.
        args: further arguments of the factory, plain data.
        output_key: see `bench.torch_utils.network_form.NetworkForm`, as for what follows.
        input_channels: likewise.
        pad_to: likewise.
        trace_size: likewise.

    Raises:
        UsageError: there is no such factory, its arguments do not fit, or it takes the number in several ways.
        BenchError: its code fails, or gives no network.
    """
    given = dict(args or {})
    factory = _factory(name)
    takes = [parameter for parameter in OUTPUTS if parameter in _parameters(factory)]
    if not any(parameter in given for parameter in takes):
        if len(takes) > 1:
            raise UsageError(f"{name} takes {' and '.join(takes)}; say the one that counts the outputs in `model_args`")
        given |= dict.fromkeys(takes, outputs)
    _check_arguments(name, factory, given)
    network = _run(f"{name} cannot be built", lambda: factory(**given))
    if not isinstance(network, nn.Module):
        raise UsageError(f"{name} gives a {type(network).__name__}, not a network (torch.nn.Module)")
    size = None if trace_size is None else tuple(trace_size)
    return adapt(network, NetworkForm(output_key, input_channels, pad_to or 1, size))


def found_form(model: nn.Module, name: str, outputs: int, *, pad_to: int | None) -> dict[str, Any]:
    """Tries out a new network, and says what was found out about it.

    Args:
        model: what `build_own` gave; its form is completed in place.
        name: the spelling of its factory, for messages.
        outputs: how many it must have.
        pad_to: what was asked for; None finds out of what the sides of images must be multiples.

    Returns:
        `pad_to` and `trace_size`, as far as they are not the usual ones.

    Raises:
        BenchError: it runs at no size, or has another number of outputs.
    """
    form = form_of(model)
    size = form.trace_size or _size_it_runs_at(model, name)
    failure = _failure(model, size) if form.trace_size else None
    if failure:
        raise BenchError(f"{name} does not run at {size_text(size)} ({failure}); pass another `trace_size`")
    _check_outputs(model, name, outputs, size)
    multiple = pad_to or _multiple(model, size)
    if multiple != 1 and pad_to is None:
        say(f"{name} takes images whose sides are multiples of {multiple}; others are padded")
    is_usual = size == USUAL_SIZES[0]
    adapt(model, form._replace(pad_to=multiple, trace_size=None if is_usual else size))
    return ({} if multiple == 1 else {"pad_to": multiple}) | ({} if is_usual else {"trace_size": list(size)})


def _size_it_runs_at(model: nn.Module, name: str) -> tuple[int, int]:
    """The usual size for looking at networks, or else the first of larger ones at which a network runs."""
    failures = {}
    for size in USUAL_SIZES:
        failures[size] = _failure(model, size)
        if failures[size] is None:
            if size != USUAL_SIZES[0]:
                say(f"{name} does not run at {size_text(USUAL_SIZES[0])} and is looked at at {size_text(size)}")
            return size
    channels, first = form_of(model).input_channels, USUAL_SIZES[0]
    raise BenchError(
        f"{name} does not run on images of {channels} channels at {size_text(first)} ({failures[first]}), nor at "
        f"larger sizes; pass `trace_size=H,W` of one it takes, and `input_channels` where it takes others"
    )


def check_input(model: nn.Module, name: str, input_size: tuple[int, int], channels: int = 3) -> None:
    """Makes sure that a network of the user's own takes the images of a data set.

    Args:
        model: any network; those of this project are left alone.
        name: what it is called.
        input_size: (height, width) of the images in pixels.
        channels: how many they have.

    Raises:
        BenchError: it does not.
    """
    if not is_own(name):
        return
    wanted = form_of(model).input_channels
    if wanted != channels:
        raise BenchError(f"{name} takes images of {wanted} channels, those of the data set have {channels}")
    failure = _failure(model, input_size)
    if failure:
        raise BenchError(
            f"{name} does not run on images of {size_text(input_size)} ({failure}); pass another `input_size`"
        )


def _short(name: str) -> tuple[str, str]:
    """The last part of the module, and the factory."""
    module, _, factory = name.rpartition(":")
    return Path(module).stem if module.endswith(".py") else module.rpartition(".")[2], factory


def _factory(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.rpartition(":")
    if not module_name or not attribute:
        raise UsageError(f"'{name}' names no factory; write package.module:factory or path/file.py:factory")
    name_factory(name)
    # First, as for a script of that folder.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    found: Any = _module_in(module_name) if module_name.endswith(".py") else _module_called(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{module_name} has no {attribute}; name a function or a class of it that makes a network")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{name} is a {type(found).__name__}; name a function or a class that makes a network")
    return found


def _module_called(name: str) -> Any:
    try:
        is_there = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        is_there = False
    if not is_there:
        raise UsageError(
            f"there is no module {name} in {Path.cwd()} or among the installed ones; install or correct it"
        )
    return _run(f"{name} cannot be imported", lambda: importlib.import_module(name))


def _module_in(file: str) -> Any:
    path = Path(file).resolve()
    if not path.is_file():
        raise UsageError(f"{file} does not exist; the file of a factory is looked for from {Path.cwd()}")
    return _run(f"{file} cannot be imported", lambda: _imported(path))


@functools.cache
def _imported(path: Path) -> Any:
    """The module in a file; under a name of its own, so that it takes no other module's place."""
    name = f"_own_network_{len(sys.modules)}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    # What lies beside it can be imported, but hides nothing.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}


def _check_arguments(name: str, factory: Callable[..., Any], given: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**given)
    except TypeError as error:
        raise UsageError(f"{name} cannot be called so: {error}; it takes {signature}; see `model_args`") from error


def _run(what: str, work: Callable[[], Any]) -> Any:
    """Runs code of the user's; what it raises becomes one line that says where."""
    try:
        return work()
    except BenchError:
        raise
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}, line {frame.lineno}"
        raise BenchError(f"{what}: {type(error).__name__}: {first_line(error)} ({where})") from error


@torch.no_grad()
def _output(model: nn.Module, size: tuple[int, int]) -> Tensor:
    was_training = model.training
    try:
        return model.eval()(blank_image(model, size))
    finally:
        model.train(was_training)


def _failure(model: nn.Module, size: tuple[int, int]) -> str | None:
    """What a network says against images of a size, in one line; None where it takes them."""
    try:
        _output(model, size)
    except BenchError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return first_line(error)
    return None


def _multiple(model: nn.Module, size: tuple[int, int]) -> int:
    """Of what the sides of images must be multiples: the smallest number of which an odd multiple will do."""
    for multiple in _MULTIPLES:
        tried = tuple(side + multiple if side % (2 * multiple) == 0 else side for side in size)
        if _failure(model, tried) is None:
            return multiple
    return 1


def _check_outputs(model: nn.Module, name: str, outputs: int, size: tuple[int, int]) -> None:
    found = _output(model, size).shape[1]
    if found != outputs:
        known = ", ".join(OUTPUTS)
        raise BenchError(
            f"{name} gives {found} outputs, {outputs} are needed; its number is passed as a parameter that is called "
            f"one of {known}: give the factory one, or pass its own by `model_args`"
        )
