"""How a detector is fitted: what `oodline.fit` asks of it before its pass, and does with it afterwards."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from oodline._util.warning import warn
from oodline.detectors.assumptions import LABELLED, Assumption, Measured, OfHead, Watching, broken_assumptions
from oodline.detectors.declaration import check_estimate
from oodline.detectors.fitted import FittedTensor
from oodline.detectors.head_check import check_head
from oodline.errors import AssumptionWarning, HeadError, SettingError
from oodline.model.head import Head, HeadInfo
from oodline.statistics import Backbone, ContentSketch, Statistic

if TYPE_CHECKING:
    from oodline.detectors.base import Detector


class Fitting(nn.Module, abc.ABC):
    """The part of `Detector` that is fitted; a subclass writes `statistics` and `estimate`, or neither."""

    fitted_tensors: ClassVar[Mapping[str, FittedTensor]] = {}
    """Kind and shape of the fitted tensors by name, as annotated; a detector without any needs no fitting."""

    assumes: ClassVar[tuple[Assumption | OfHead, ...]] = ()
    """What it supposes of the features, which `oodline.fit` compares with the data, and warns; and of the head, without
    which it is refused."""

    reads_data: ClassVar[bool] = True
    """Whether its state comes from data; otherwise from the head and the settings alone, and `fit` makes no pass."""

    seen: Tensor | None
    """Hashes of the samples it was fitted on (S,), int64, by which held-out data is told apart; see `ContentSketch`."""

    backbone: Backbone | None = None
    """What the features were like that it was fitted on; None before, and where no pass was made."""

    doubts: str = ""
    """What it supposes and the data that it was fitted on does not bear out; empty before, and where all holds."""

    fitted_on: HeadInfo | None = None
    """The head it was fitted on; None before, and for detectors that need no fitting."""

    @property
    @abc.abstractmethod
    def members(self) -> Sequence[tuple[str, Any]]:
        """The detectors it is made of, by attribute name."""

    @property
    def assumed_of_data(self) -> tuple[Assumption, ...]:
        """What it supposes that only data can show."""
        return tuple(each for each in self.assumes if not isinstance(each, OfHead))

    @property
    def has_state(self) -> bool:
        """Whether it or a member needs fitting."""
        return bool(self.fitted_tensors) or any(member.has_state for _, member in self.members)

    @property
    def fitted(self) -> bool:
        """Whether it can score: all buffers are there, of its members too."""
        return all(self._buffers[name] is not None for name in self.fitted_tensors) and all(
            m.fitted for _, m in self.members
        )

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """What must be known of the ID training data; called by `oodline.fit` before its pass.

        Parameters
        ----------
        head : LinearHead, LayeredHead or NoHead
            The classifier's.

        Returns
        -------
        dict of str to Statistic
            Empty statistics, which the pass fills, by the name of the argument of `estimate` that takes each.
        """
        return {}

    def estimate(self, head: Head, *args: Any, **statistics: Any) -> None:
        """Set every fitted tensor; called by `oodline.fit` after its pass, once the members are fitted.

        Written as `estimate(self, head, moments: ClassMoments)` where `statistics` gives `{"moments": ClassMoments()}`.

        Parameters
        ----------
        head : LinearHead, LayeredHead or NoHead
            The classifier's.
        **statistics : Statistic
            What `statistics` asked for, filled, by name. Other detectors read the same: they must not be changed.

        Raises
        ------
        OodlineError
            The data does not suffice; the detector then keeps the state that it had.
        """

    def _requests(self, head: Head) -> dict[str, Statistic]:
        """Statistics that it and its members need, members' names prefixed by the attribute that holds them."""
        check_head(cast("Detector", self), head)
        found = dict(self.statistics(head))
        grouped = [each for one in found.values() for each in (one, getattr(one, "moments", None))]
        if any(getattr(each, "by", "all") in ("label", "correct") for each in grouped) and (
            why := LABELLED.refusal(self, head)
        ):
            raise HeadError(why)
        check_estimate(self, head, found, written=type(self).estimate is not Fitting.estimate)
        if self.fitted_tensors and self.reads_data:
            found["seen"] = ContentSketch()
        for prefix, member in self.members:
            found |= {f"{prefix}.{name}": statistic for name, statistic in member._requests(head).items()}
        return found

    def _settle(self, statistics: Mapping[str, Statistic], head: Head) -> None:
        """Estimate its members' and its own buffers from the filled `_requests`; where that fails, keep the old."""
        before = [(module, dict(module._buffers), getattr(module, "fitted_on", None)) for module in self.modules()]
        try:
            for prefix, member in self.members:
                start = f"{prefix}."
                own = {k.removeprefix(start): s for k, s in statistics.items() if k.startswith(start)}
                self._settle_member(prefix, member, own, head)
            own = {name: s for name, s in statistics.items() if "." not in name}
            sketch = own.pop("seen", None)
            self.estimate(head, **own)
            if isinstance(sketch, ContentSketch) and not sketch.empty:
                self.seen = sketch.hashes.clone()  # a file refuses tensors that share memory
        except BaseException:
            for module, buffers, head_info in before:
                module._buffers.update(buffers)
                if isinstance(module, Fitting):
                    module.fitted_on = head_info
            raise
        # the layout a file gives back: another one may round a matrix product in another way
        self._buffers.update({k: v.contiguous() for k, v in self._buffers.items() if v is not None})
        self.to(head.device)
        self.mark_fitted(HeadInfo.of(head))

    def assumed(self) -> dict[Any, Statistic]:
        """Empty statistics to fill for `check_assumptions`; none where it, and a scorer in it, supposes nothing."""
        scorer = getattr(self, "scorer", None)
        if self.assumed_of_data or (scorer is not None and scorer.assumed()):
            watched = {each: each.statistic() for each in self.assumed_of_data if isinstance(each, Watching)}
            return {**Backbone.statistics(), **watched}
        return {}

    def check_assumptions(self, statistics: Mapping[Any, Statistic], head: Head) -> None:
        """Warn where the filled `assumed` statistics do not bear out what it supposes; called by `oodline.fit`."""
        with torch.autocast(head.device.type, enabled=False):
            measured = Measured.of(statistics, head)
            found = [] if measured is None else list(broken_assumptions(cast("Detector", self), measured))
        self.doubts = "; ".join(sentence for _, sentence in found)
        for name, sentence in found:
            warn(f"{name} may do worse than MSP here: {sentence}. {self._remedy()}", AssumptionWarning)

    def _remedy(self) -> str:
        detector = cast("Detector", self)
        if detector.tunable:
            return "Change its settings (`oodline tune` finds some), or choose another method."
        settings = ", ".join(name for name in detector.settings if name != "scorer")
        return f"Change its settings ({settings}), or choose another method." if settings else "Choose another method."

    def _settle_member(self, name: str, member: Any, statistics: Mapping[str, Statistic], head: Head) -> None:
        """Settle one of its members; called by `_settle`, before its own estimate."""
        member._settle(statistics, head)

    def leave_out(self, members: Mapping[str, str]) -> None:
        """Do without these members, for the reasons given.

        Raises
        ------
        SettingError
            It has no members that it could do without.
        """
        raise SettingError(f"{type(self).__name__} cannot do without {', '.join(members)}.")

    def mark_fitted(self, head: HeadInfo) -> None:
        """Record which head it was fitted on, for itself and its members; detectors without state record none."""
        if self.has_state:
            self.fitted_on = head
        for _, member in self.members:
            member.mark_fitted(head)
