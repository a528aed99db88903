"""`RowClassifier`: a model that gives one decision per pixel or token, read as rows of features and logits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn

from oodline._util.checked import checked
from oodline._util.hashing import hashed_share
from oodline._util.ranges import LeftToIt
from oodline.data.batch import Inputs, Loader, as_tensors, unpack
from oodline.errors import HeadError, InputError
from oodline.model.activations import NOT_OBSERVED, Activations, Needs
from oodline.model.classifier import Classifier
from oodline.model.eval_mode import evaluating
from oodline.model.forward import forward, moved
from oodline.model.gradients import Gradients
from oodline.model.head import Head, HeadInfo, LayeredHead, LinearHead
from oodline.model.hooks import listening
from oodline.model.layers import Layer
from oodline.model.linear_modules import affine_of, linear_names
from oodline.model.outputs import first_rows
from oodline.model.precision import Dtype
from oodline.model.reading import at_least_float32
from oodline.model.rows.named import rows_of
from oodline.model.rows.placed import PlacedRows, Returned, check_single, laid_out, numbered
from oodline.model.rows.places import MOST_PLACES, OBSERVED, Places, mean_by, positions

MOST_PROBED = 2**22
"""Logits that a search for the head looks at."""


class RowClassifier(Classifier):
    """A model with one decision per pixel or token: every place is one row of features and logits.

    Everything that takes a `Classifier` takes it. Detectors are fitted on a share of the rows (`rows.fit_share`), an
    input is judged by all of its rows (`rows.per_input`), and a `Guard` says of each row and of each input whether it
    is unlike the training data.

    Parameters
    ----------
    model : nn.Module
        Its logits are `W f + b` of features f at each place. Where the head is a convolution of 3x3, say, f are the
        features of the nine places that it reads.
    rows : Pixels, Tokens or str
        How the rows are laid out, and how an input is judged by them; or a reference such as "pixels,region=0.02".
    head : str, optional
        Name of the head; found by comparing numbers if omitted.
    binary : bool
        The model returns one logit per place, of the second of two classes: take (0, z).
    dtype : {"float32", "bfloat16", "float16"}
        As in `Classifier`.

    Raises
    ------
    HeadError
        As `Classifier`.

    Examples
    --------
    >>> import oodline as ol
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> classifier = ol.RowClassifier(model, ol.Pixels(fit_share=1.0))
    >>> detector = ol.Mahalanobis(by="all").fit(classifier, torch.randn(40, 3, 6, 6))
    >>> guard = ol.Guard(classifier, detector).calibrate(torch.randn(40, 3, 6, 6), false_alarm=0.1)
    >>> verdict = guard(torch.cat([torch.zeros(1, 3, 6, 6), -99 * torch.ones(1, 3, 6, 6)]))
    >>> verdict.is_ood.tolist(), verdict.maps("is_ood").shape
    ([False, True], torch.Size([2, 6, 6]))
    """

    rows: PlacedRows
    _sampling = _marking = False
    _windows = True

    @checked
    def __init__(
        self,
        model: Annotated[nn.Module, LeftToIt()],
        rows: PlacedRows | str,
        head: str | None = None,
        *,
        binary: bool = False,
        dtype: Dtype = "float32",
    ) -> None:
        super().__init__(model, head, binary=binary, dtype=dtype)
        if head is not None and self._reader.is_named:
            for name in head.split("+"):
                check_single(self.model, name.rpartition("*")[2].strip())
        self.rows = rows_of(rows) if isinstance(rows, str) else rows
        self._reader.after = self.rows.after_head(self.model)

    @property
    def head(self) -> Head:
        """The head as it is now; of two layers where the model applies something to its output, such as a soft cap."""
        head = self._reader.head
        after = self._reader.after
        return head if after is None or not isinstance(head, LinearHead) else LayeredHead(head, after, head.name)

    @staticmethod
    def _first_guess(model: nn.Module) -> str | None:
        # whatever follows it, such as an activation, the first pass finds out whether it makes the logits
        return next((name for name, _ in reversed([*linear_names(model, windows=True)])), None)

    def expect(self, known: HeadInfo) -> None:
        """As `Classifier.expect`; what a configuration says of a soft cap gives way to what a pass has found."""
        super().expect(known)
        if not self._reader.is_proven and known.fingerprint == self._reader.head.fingerprint:
            self._reader.after = None

    def __repr__(self) -> str:
        return f"Row{super().__repr__()[:-1]}, rows={self.rows})"

    def __call__(
        self,
        inputs: Inputs,
        *,
        needs: Needs = Needs.LOGITS,
        layers: Sequence[Layer] = (),
        index: Tensor | None = None,
    ) -> Activations:
        """Run the model once over a batch of N inputs; one row for each place.

        Parameters
        ----------
        inputs, needs, layers
            As in `Classifier`.
        index : Tensor (N,), optional
            Position of each input in its data set. If omitted, 0..N-1.

        Raises
        ------
        HeadError, InputError
            As `Classifier`, or more is asked for than rows can have.
        """
        if why := self.lacking(needs, layers):
            raise InputError(f"this pass {why}")
        inputs = moved(self.model, self.device, as_tensors(inputs))
        with evaluating(self.model), self.computing():
            seen, returned = self._rows(inputs, *self._reader.keys)
            logits = self._row_logits(returned)
            read = self._reader.read(seen, logits)
            if read is None:
                scaled = self.rows.scaled
                self._reader.search(lambda *keys: self._probe_rows(inputs, *keys), logits.shape[1], scaled=scaled)
                seen, returned = self._rows(inputs, *self._reader.keys)
                read = self._reader.read(seen, self._row_logits(returned))
            if read is None:
                raise HeadError(f"'{self.head_name}' gives the logits of some rows and not of others.")
        self._reader.after = returned.after
        features, logits = at_least_float32(read.features), at_least_float32(read.logits)
        if returned.is_empty:
            features, logits = features[:0], logits[:0]
        places = self._places(returned, features, index)
        logits = logits if returned.after is None else returned.after(logits)
        return self._record(features, logits, places, inputs if Needs.INPUTS in needs else None)

    def _record(self, features: Tensor, logits: Tensor, places: Places, inputs: Inputs | None) -> Activations:
        activations = Activations(
            features=features,
            logits=logits,
            head=self.head.to(features),
            index=places.index,
            inputs=inputs,
            places=places,
        )
        activations.check_finite("this batch")
        return activations

    @checked
    def stream(
        self, loader: Loader, *, needs: Needs = Needs.LOGITS, layers: Sequence[Layer] = ()
    ) -> Iterator[tuple[Activations, Tensor | None]]:
        """As `Classifier.stream`; labels are maps, and come as one per row, -1 for rows that are to be left out."""
        total, chosen = 0, 0
        for batch in loader:
            inputs, labels, index = unpack(batch, total)
            activations = self(inputs, needs=needs, layers=layers, index=index)
            total, places = total + len(index), activations.places
            assert places is not None
            of_rows = self._labels(labels, places)
            if self._sampling:
                rows = hashed_share(activations.index, self.rows.fit_share)
                rows &= True if of_rows is None else of_rows >= 0
                activations, of_rows = activations.take(rows), None if of_rows is None else of_rows[rows]
                if len(activations) == 0:
                    continue
            if OBSERVED in places.known and not self._marking:
                of_rows = None  # of tokens to come, any may be right: they are no classes
            chosen += len(activations)
            yield activations, of_rows
        if total == 0 or chosen == 0:
            what = "batch" if total == 0 else f"row to fit on, of {total} inputs"
            raise InputError(
                f"the loader yielded no {what}. Check the path and the split, whether all labels are those to ignore, "
                "and whether the loader is a generator that was already used up."
            )

    def sampled(self) -> Self:
        """The same classifier, whose `stream` yields the share of rows that detectors are fitted on."""
        other = copy.copy(self)
        other._sampling = True
        return other

    def everywhere(self) -> Self:
        """The same classifier, whose rows do not depend on what an input must hold to have any (`Tokens.after`)."""
        other = copy.copy(self)
        other.rows = self.rows.everywhere()
        return other

    def overhear(self) -> AbstractContextManager[Mapping[str, Any]]:
        """Listen to the head while the model is run by others, such as by `generate`; see `last_rows`."""
        inside, outside = self._reader.keys
        return listening(self.model, inputs=inside, outputs=outside)

    def last_rows(self, seen: Mapping[str, Any], places: Places) -> Activations:
        """The last row of each of N inputs in the last pass, from what was overheard in it.

        Parameters
        ----------
        seen : mapping
            What `overhear` has.
        places : Places
            Of these N rows.

        Raises
        ------
        InputError
            The head was not called, or with another number of inputs.
        """
        inside, outside = self._reader.keys
        count = len(places)
        last: dict[str, Tensor] = {}
        for key, name in {**inside, **outside}.items():
            value, affine = seen.get(key), affine_of(self.model.get_submodule(name))
            placed = affine.places(value, count) if affine is not None and isinstance(value, Tensor) else None
            if placed is None and isinstance(value, Tensor):
                raise InputError(
                    f"the model was run for another number of answers than the {count} that are scored: beam search "
                    "and its like keep several of each. Take num_beams=1 and num_return_sequences=1."
                )
            if placed is None:
                raise InputError(
                    f"the head '{self.head_name}' was not called for {count} inputs. If no pass has shown yet which "
                    "layer it is, calibrate the guard, or name it: head='NAME'."
                )
            last[key] = placed[:, -1]
        read = self._reader.follow(last, self._reader.made(last))
        logits = at_least_float32(read.logits)
        features, after = at_least_float32(read.features), self._reader.after
        return Activations(
            features=features,
            logits=logits if after is None else after(logits),
            head=self.head.to(features),
            index=places.index,
            places=places,
        )

    def marking(self) -> Self:
        """The same classifier, whose `stream` yields in place of labels how many of each row's are 0 and 1 (M, 2)."""
        other = copy.copy(self)
        other._marking = True
        return other

    def trace(self, inputs: Inputs, *, needs: Needs = Needs.LOGITS, layers: Sequence[Layer] = ()) -> Activations:
        """The same pass without data-dependent checks, so that `torch.export` can trace it; all places are rows.

        Call the classifier itself on the same inputs before, so that everything has been checked once.

        Raises
        ------
        ExportError
            Shapes do not tell where the rows are.
        """
        inside, outside = self._reader.keys
        inputs = moved(self.model, self.device, inputs)
        with evaluating(self.model), self.computing(), torch.no_grad():
            with listening(self.model, inputs=inside, outputs=outside) as seen:
                forward(self.model, inputs)
            outputs = [seen[key] for key in outside]
            grid = self.rows.grid_of(outputs[0], inputs)
            # of the head alone: what comes after it brings the map to the image's size
            made = [each.flatten(2).mT if each.ndim == 4 else each for each in outputs]
            logits = torch.stack([factor * each for factor, each in zip(self._reader.factors, made, strict=True)]).sum(
                0
            )
            found = {k: v.flatten(0, 1) for k, v in laid_out(self.model, inside, outside, seen, logits).items()}
            read = self._reader.follow(found, logits.flatten(0, 1))
        features, count = at_least_float32(read.features), logits.shape[0]
        places = logits.shape[1]
        group = torch.arange(count).repeat_interleave(places)
        at = torch.arange(places).repeat(count)
        means = features.reshape(count, places, -1).mean(1)
        laid = Places(group, at, torch.arange(count), grid, self.rows.per_input, means)
        return Activations(
            features=features,
            logits=at_least_float32(read.logits),
            head=read.head.to(features),
            index=laid.index,
            places=laid,
        )

    def gradients(self, inputs: Inputs, scalar: Callable[[Tensor], Tensor], *, layers: Sequence[str] = ()) -> Gradients:
        """There are none of rows.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError(f"this method {self.lacking(Needs.CLASSIFIER)}")

    def lacking(self, needs: Needs, layers: Sequence[Layer] = ()) -> str:
        """What rows cannot have, and what to do; empty where nothing is missing."""
        if Needs.OBSERVED in needs and not self.rows.observes(self.model):
            return NOT_OBSERVED
        asked = [
            (Needs.FEATURE_MAP in needs, "the feature map before pooling"),
            (Needs.CLASSIFIER in needs, "the model, to run it again or for gradients"),
            (bool(layers), "the outputs of layers of the model"),
        ]
        missing = " and ".join(what for there, what in asked if there)
        kind = self.rows.name
        return missing and (
            f"needs {missing}, which belong to an input and not to its {kind}. Take one that reads features, logits "
            "and the head: `oodline methods` says what each reads."
        )

    def _rows(
        self, inputs: Inputs, inside: Mapping[str, str], outside: Mapping[str, str]
    ) -> tuple[dict[str, Tensor], Returned]:
        with torch.no_grad(), listening(self.model, inputs=inside, outputs=outside) as seen:
            output = forward(self.model, inputs)
        heads = {name: value for key, name in outside.items() if isinstance(value := seen.get(key), Tensor)}
        returned = self.rows.returned(self.model, output, inputs, heads)
        places = returned.logits.shape[1]
        if places > MOST_PLACES:
            raise InputError(f"an input has {places} {self.rows.name}, and at most {MOST_PLACES} can be read.")
        found = laid_out(self.model, inside, outside, seen, returned.logits)
        shown = returned.shown
        return {k: shown.rows(v) for k, v in found.items() if v.shape[1] == places}, returned

    def _probe_rows(self, inputs: Inputs, *keys: Mapping[str, str]) -> tuple[dict[str, Tensor], Tensor]:
        seen, returned = self._rows(first_rows(inputs, 2), *keys)
        logits = self._row_logits(returned)
        most = max(MOST_PROBED // logits.shape[1], 8)
        return {key: value[:most] for key, value in seen.items()}, logits[:most]

    @staticmethod
    def _row_logits(returned: Returned) -> Tensor:
        return returned.shown.rows(returned.logits)

    def _places(self, returned: Returned, features: Tensor, index: Tensor | None) -> Places:
        count, places = returned.logits.shape[:2]
        group, place = numbered(returned.kept, count, places)
        known = {name: returned.rows(value) for name, value in returned.known.items()}
        means = mean_by(features, group, count)
        return Places(group, place, positions(index, count), returned.grid, self.rows.per_input, means, known)

    def _labels(self, labels: Tensor | None, places: Places) -> Tensor | None:
        if labels is None:
            return None
        read = self.rows.marks if self._marking else self.rows.labels
        whole = self.rows.of_rows(read(labels, places.grid, places.inputs), self.model)
        return whole[places.group, places.place]
