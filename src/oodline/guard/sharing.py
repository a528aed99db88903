"""`Sharing`: the methods of `Guard` that write it for other tools, and read it from them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from oodline._util.checked import checked
from oodline.data.batch import Inputs
from oodline.guard.export import Export, export_onnx
from oodline.guard.graph import Guarded
from oodline.guard.hub import Saved, guard_file, push_to_hub, save_pretrained
from oodline.guard.model_card import Tabulated
from oodline.guard.openvino import export_openvino
from oodline.model.classifier import Classifier
from oodline.preprocessing.preprocessing import Preprocessing


class Sharing:
    """What a guard is written as; each method says where the details are."""

    @checked
    def export_onnx(
        self: Guarded,
        path: str | Path,
        example: Inputs,
        *,
        preprocessing: Preprocessing | None = None,
        progress: bool = False,
    ) -> Export:
        """Write one ONNX graph from inputs to the verdict; see `oodline.guard.export.export_onnx`."""
        return export_onnx(self, path, example, preprocessing=preprocessing, progress=progress)

    @checked
    def export_openvino(
        self: Guarded,
        path: str | Path,
        example: Inputs,
        *,
        preprocessing: Preprocessing | None = None,
        progress: bool = False,
    ) -> Export:
        """Write the same graph for OpenVINO; see `oodline.guard.openvino.export_openvino`."""
        return export_openvino(self, path, example, preprocessing=preprocessing, progress=progress)

    @checked
    def save_pretrained(
        self: Saved, folder: str | Path, *, data: str | None = None, table: Tabulated | None = None
    ) -> Path:
        """Write the guard's file and a model card to a folder; see `oodline.guard.hub.save_pretrained`."""
        return save_pretrained(self, folder, data=data, table=table)

    @checked
    def push_to_hub(
        self: Saved, repo_id: str, *, data: str | None = None, table: Tabulated | None = None, **options: Any
    ) -> str:
        """Upload file and card to the Hugging Face Hub, return the commit; see `oodline.guard.hub.push_to_hub`."""
        return push_to_hub(self, repo_id, data=data, table=table, **options)

    @classmethod
    @checked
    def from_pretrained(
        cls,
        repo_or_folder: str | Path,
        classifier: Classifier,
        detector: str | None = None,
        *,
        revision: str | None = None,
        token: str | None = None,
        endpoint: str | None = None,
        class_names: Iterable[str] | None = None,
        allow_other_weights: str | None = None,
    ) -> Self:
        """Read a guard from a folder by `save_pretrained`, or from a repository of the Hugging Face Hub.

        Parameters
        ----------
        repo_or_folder : str or Path
            A folder, if there is one of this name, else `NAME/REPOSITORY`.
        classifier : Classifier
            The one it was fitted on.
        detector, class_names, allow_other_weights
            As in `Guard.load`.
        revision : str, optional
            Branch, tag or commit of the repository.
        token, endpoint : str, optional
            As in `oodline.guard.hub.push_to_hub`.

        Raises
        ------
        ArtifactError
            There is no guard there, or it cannot be reached.
        MismatchError, UnknownNameError
            As `Guard.load`.
        """
        path = guard_file(repo_or_folder, revision=revision, token=token, endpoint=endpoint)
        load: Any = cls.load  # type: ignore[attr-defined]  # of the guard that this is a part of
        return load(  # type: ignore[no-any-return]
            path, classifier, detector, class_names=class_names, allow_other_weights=allow_other_weights
        )
