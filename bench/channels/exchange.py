"""Groups that are proven on the network itself: a group is right exactly if its channels can change places.

Permuting the channels of a group in all of its members must leave every output as it is, in evaluation and in training
mode. No tracer is involved, so this watches over the tracer, too. What a permutation cannot see, a width that is
written in the network's code, shows when a channel goes.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench.channels.budget import Budget
from bench.channels.modes import without_chance
from bench.channels.permutation import permutation_of, permute, places_from
from bench.channels.positions import keep_positions, positions_left
from bench.errors import BenchError, first_line
from bench.torch_utils.hooks import inputs_seen
from bench.torch_utils.outputs import tensors_in

if TYPE_CHECKING:
    from bench.channels.groups import ChannelGroup

SIZE_IN_CODE = "a width is written in the network's code"
# How far an output may be off, as a share of its largest value. Where a network only runs in its own precision, another
# order of summation shows.
_EXACT, _ROUNDED = 1e-9, 1e-4
_DROPOUTS = {
    *(torch.dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout),
    *(nn.functional.dropout, nn.functional.dropout1d, nn.functional.dropout2d, nn.functional.dropout3d),
    *(nn.functional.alpha_dropout, nn.functional.feature_alpha_dropout),
}


def faults(
    model: nn.Module, groups: Sequence[ChannelGroup], images: Tensor, budget: Budget | None = None
) -> dict[str, str]:
    """Group name -> why its channels cannot go although the tracer let them, for the groups of which that is so.

    Args:
        model: the network the groups were found in; left as it was.
        groups: those whose channels are to go.
        images: [N, 3, H, W] of the size that the network was traced at, of its type and on its device.
        budget: the time for it; what is not tried out within it cannot go. A new one by default.
    """
    budget = budget or Budget()
    candidates = {group.name: group for group in groups if group.channels > 1}
    if not candidates:
        return {}
    key = _architecture(model, candidates.values(), images)
    if key is None:
        return _found_by_trial(model, candidates, images, budget)
    if key not in _known:
        if len(_known) == _MOST_KNOWN:
            del _known[next(iter(_known))]
        _known[key] = _found_by_trial(model, candidates, images, budget)
    return dict(_known[key])


_known: dict[Hashable, dict[str, str]] = {}
_MOST_KNOWN = 64


def _found_by_trial(
    model: nn.Module, candidates: Mapping[str, ChannelGroup], images: Tensor, budget: Budget
) -> dict[str, str]:
    trial = _Trial(model, images)
    right, moved = _sorted_out(candidates.values(), trial.exchange, budget)
    kept, crashed = _sorted_out(right, functools.partial(trial.cut, trials=_numbers(list(candidates.values()))), budget)
    # With one part left there is no order that could be wrong.
    crashed |= {group.name: "two parts are too few to tell" for group in kept if group.unit > 1 and group.channels == 2}
    return {name: trial.where(candidates[name], reason) for name, reason in moved.items()} | crashed


def _architecture(model: nn.Module, groups: Iterable[ChannelGroup], images: Tensor) -> Hashable | None:
    """All that the faults of a network's groups depend on; None where that cannot be told from its modules."""
    layers = []
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            return None
        own = {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
        if not all(map(_is_told, own.values())):
            return None
        layers.append((name, type(module), repr(sorted(own.items(), key=lambda item: item[0]))))
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in model.state_dict().items())
    return tuple(layers), shapes, tuple(map(_told, groups)), tuple(images.shape)


def _told(group: ChannelGroup) -> Hashable:
    """Name, width and members of a group."""
    sides = tuple(
        (m.layer, m.side, *(part.numpy().tobytes() for part in (m.positions, m.channels))) for m in group.members
    )
    return group.name, group.channels, group.unit, zlib.crc32(repr(sides).encode())


def _is_told(value: Any) -> bool:
    """Whether a module's attribute says all of itself when it is printed."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_told, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _sorted_out(
    groups: Iterable[ChannelGroup], fault: Callable[[list[ChannelGroup]], str | None], budget: Budget
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Groups that are right together, and for each of the others what is wrong with it beside them.

    All are tried at once; only where something is wrong, halves of them are tried on top of what is known to be right.

    Args:
        groups: in the order in which they are tried.
        fault: what is wrong with some groups, or None.
        budget: once it is spent nothing is tried; what is left then is wrong.
    """
    right: list[ChannelGroup] = []
    wrong: dict[str, str] = {}
    waiting = [list(groups)]
    while waiting:
        tried = waiting.pop()
        if budget.is_spent:
            wrong |= {group.name: f"not tried out within {budget.seconds:g} s" for group in tried}
            continue
        reason = fault([*right, *tried]) if tried else None
        if reason is None:
            right += tried
        elif len(tried) == 1:
            wrong[tried[0].name] = reason
        else:
            half = len(tried) // 2
            waiting += [tried[half:], tried[:half]]
    return right, wrong


class _Trial:
    """A copy of a network on which permutations and cuts are tried.

    Weights and statistics are shaken, so that what starts as all equal or as zero, like a norm's scale, hides nothing.
    """

    def __init__(self, model: nn.Module, images: Tensor):
        """Finds weights and a precision with which the network gives numbers.

        Raises:
            BenchError: there are none.
        """
        self._own, self._blank = model, images[:1]
        self._gradients = [(weight, weight.grad) for weight in model.parameters()]
        self._is_trained: bool | None = None
        self._moved: list[ChannelGroup] = []
        drawn = torch.randn(self._blank.shape, generator=torch.Generator().manual_seed(0)).to(images)
        failure = "its outputs are not finite"
        # Constants of a type that is written in the code ask for the network's own precision, and a weight that must
        # stay above 0, say, for the network's own weights.
        for is_double, is_shaken in itertools.product((True, False), repeat=2):
            self._model, self._images = copy.deepcopy(model), drawn
            self._tolerance = _EXACT if is_double else _ROUNDED
            if is_shaken:
                _shake(self._model)
            if is_double:
                self._model, self._images = self._model.double(), drawn.double()
            try:
                self._expected = self._outputs(self._model, self._images)
            except Exception as error:  # noqa: BLE001  a network's own code
                failure = first_line(error)
                continue
            if all(output.isfinite().all() for outputs in self._expected for output in outputs):
                self._modes = (False, True)
                evaluated, trained = self._expected
                if all(any(torch.equal(one, other) for other in trained) for one in evaluated):
                    # Training computes what evaluation does, to the last bit, and perhaps more.
                    self._modes, self._expected = (True,), [trained]
                return
        raise BenchError(
            f"cannot try out which channels of {type(model).__name__} can go ({failure}); mend the network"
        )

    def exchange(self, groups: list[ChannelGroup]) -> str | None:
        """What goes wrong when the channels of some groups change places, or None."""
        self._permute(groups)
        try:
            outputs = self._outputs(self._model, self._images, modes=self._modes)
        except Exception as error:  # noqa: BLE001  a network's own code
            return f"fails once its channels change places: {first_line(error)}"
        pairs = zip(self._expected, outputs, strict=True)
        is_same = all(_are_close(before, after, self._tolerance) for before, after in pairs)
        return None if is_same else "its channels cannot change places"

    def cut(self, groups: list[ChannelGroup], trials: Sequence[Mapping[str, int]]) -> str | None:
        """What goes wrong when some groups lose channels, or None: one each, then as many of each as `trials` say."""
        small = without(self._own, groups, {group.name: torch.tensor([group.channels - 1]) for group in groups})
        error = self._failure(small, backward=True)
        if error is not None:
            if self._is_trained is None:
                self._is_trained = self._failure(_sharing_tensors(self._own), backward=True) is None
            if not self._is_trained:
                # What cannot be trained as it is need not be once it is smaller.
                error = self._failure(small, backward=False)
        if error is not None:
            return f"{SIZE_IN_CODE}: {error}"
        return next(filter(None, (self._of_two_places(groups, numbers) for numbers in trials)), None)

    def _of_two_places(self, groups: list[ChannelGroup], numbers: Mapping[str, int]) -> str | None:
        """What is wrong if which channels go depends on their places: the same ones go from two."""
        last = {group.name: torch.arange(group.channels)[-numbers[group.name] :] for group in groups}
        same = {group.name: permutation_of(group)[-numbers[group.name] :] for group in groups}
        passes = []
        for moved, lost in ((groups, last), ([], same)):
            self._permute(moved)
            try:
                passes += self._outputs(without(self._model, groups, lost), self._images, modes=(False,))
            except Exception as error:  # noqa: BLE001  a network's own code
                return f"{SIZE_IN_CODE}: {first_line(error)}"
        return None if _are_close(*passes, self._tolerance) else "others go than those that are meant to"

    def _failure(self, model: nn.Module, *, backward: bool) -> str | None:
        """What goes wrong in a step of a network's training, or None."""
        try:
            (outputs,) = self._outputs(model, self._blank, modes=(True,), gradients=backward)
            sums = [output.sum() for output in outputs if output.requires_grad]
            if sums:
                torch.stack(sums).sum().backward()
        except Exception as error:  # noqa: BLE001  a network's own code
            return first_line(error)
        finally:
            for weight, gradient in self._gradients:
                weight.grad = gradient
        return None

    def where(self, group: ChannelGroup, reason: str) -> str:
        """The reason, with the first reader of a group's channels that they reach in other places, if there is one."""
        readers = {member.layer: member for member in group.consumers}
        dense: dict[str, list[Tensor]] = {}
        moved: dict[str, list[Tensor]] = {}

        def into(seen: dict[str, list[Tensor]]) -> Callable[[str, tuple[Any, ...]], None]:
            return lambda name, inputs: seen.setdefault(name, []).append(inputs[0].detach().clone())

        with torch.no_grad(), contextlib.suppress(Exception):
            self._permute([])
            with inputs_seen(self._model, readers, into(dense)):
                self._outputs(self._model, self._images)
            self._permute([group])
            with inputs_seen(self._model, readers, into(moved)):
                self._outputs(self._model, self._images)
        permutation = permutation_of(group)
        for name, member in readers.items():
            for before, after in zip(dense.get(name, []), moved.get(name, []), strict=False):
                layer = self._model.get_submodule(name)
                axis = before.dim() - 1 if isinstance(layer, nn.Linear) else 1
                index = places_from(member, permutation, before.shape[axis]).to(before.device)
                if not _is_close(before.index_select(axis, index), after, self._tolerance):
                    return f"channels change places between {group.name} and {name}"
        return reason

    def _permute(self, groups: Sequence[ChannelGroup]) -> None:
        """Lets the channels of these groups, and of no others, be in other places than they were."""
        if [id(group) for group in groups] == [id(group) for group in self._moved]:
            return
        permute(self._model, self._moved, inverse=True)
        permute(self._model, groups, inverse=False)
        self._moved = list(groups)

    @staticmethod
    def _outputs(
        model: nn.Module, images: Tensor, *, modes: Sequence[bool] = (False, True), gradients: bool = False
    ) -> list[list[Tensor]]:
        """All output tensors in evaluation mode, and in training mode without chance and with frozen statistics."""
        passes = []
        with _without_dropout(model), torch.set_grad_enabled(gradients):
            for is_training in modes:
                with without_chance(model, is_training):
                    passes.append(tensors_in(model(images)))
        return passes


def _sharing_tensors(model: nn.Module) -> nn.Module:
    """A copy with modules of its own that has the same tensors, as long as none is given another."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    # deepcopy takes what its memo knows for copied already.
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


@torch.no_grad()
def _shake(model: nn.Module) -> None:
    """Moves every weight, and the statistics of norms, a little; in place."""
    # One list of numbers, of a length that no width divides, is enough and quicker than as many as there are weights.
    drawn = torch.randn(9973, generator=torch.Generator().manual_seed(0))

    def noise(tensor: Tensor) -> Tensor:
        repeated = drawn.repeat(-(-tensor.numel() // len(drawn)))[: tensor.numel()]
        return 0.2 * (tensor.abs().mean() or 0.1) * repeated.view(tensor.shape).to(tensor)

    for weight in model.parameters():
        # What is not finite, such as a mask, has no size to go by.
        if weight.is_floating_point() and weight.sum().isfinite():
            weight += noise(weight)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            module.running_mean += noise(module.running_var)
            module.running_var += noise(module.running_var).abs()


def without(model: nn.Module, groups: Sequence[ChannelGroup], lost: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a network that some groups have lost channels in, int64 [K] by the group's name."""
    small = _sharing_tensors(model)
    gone = {group.name: torch.isin(torch.arange(group.channels), lost[group.name]) for group in groups}
    keep_positions(small, positions_left(small, groups, gone))
    return small


def _numbers(groups: Sequence[ChannelGroup]) -> list[dict[str, int]]:
    """Group name -> how many channels to take, for one trial or two.

    Another number, by its name, for each group of the same width: code that reads the width of one of them for another
    does not show where both lose as many, or the same share. Half at least, so that code that asks whether there are so
    many shows, too; and the rest is quicker. The rest of what is made of parts does not divide them: heads whose number
    is written in the code would be halved without a word. Where there is no such number left, a second trial has one.
    """
    taken: dict[int, set[int]] = defaultdict(set)
    found, again = {}, {}
    for group in groups:
        wide, half = min(len(member.positions) for member in group.members), group.channels // 2
        good = [one for one in range(1, group.channels) if group.unit == 1 or group.channels % (group.channels - one)]
        large = [one for one in good if one >= half] or good or [1]
        first = zlib.crc32(group.name.encode()) % len(large)
        ways = [*large[first:], *large[:first], *good, *range(half, group.channels)]
        found[group.name] = next((one for one in ways if one > 0 and one not in taken[wide]), ways[0])
        taken[wide].add(found[group.name])
        again[group.name] = found[group.name] if found[group.name] in good else ways[0]
    return [found] if again == found else [found, again]


class _NoDropout(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func is nn.functional.scaled_dot_product_attention:
            kwargs = {**kwargs, "dropout_p": 0.0}
            args = args[:4]
        return func(*args, **kwargs)


@contextlib.contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """What is dropped depends on a channel's place, so nothing is."""
    attentions = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    shares = [attention.dropout for attention in attentions]
    try:
        for attention in attentions:
            attention.dropout = 0.0
        with _NoDropout():
            yield
    finally:
        for attention, share in zip(attentions, shares, strict=True):
            attention.dropout = share


def _are_close(before: Sequence[Tensor], after: Sequence[Tensor], tolerance: float) -> bool:
    return len(before) == len(after) and all(map(_is_close, before, after, [tolerance] * len(before)))


def _is_close(before: Tensor, after: Tensor, tolerance: float) -> bool:
    if before.shape != after.shape:
        return False
    if not before.is_floating_point():
        return torch.equal(before, after)
    apart = (before - after).abs().max() if before.numel() else torch.zeros(())
    return bool(apart <= tolerance * before.abs().max().clamp(min=1e-30))
