"""The Ray engine: workers hold the model and process blocks of the data; each block's result is merged once.

A block is the unit of work: what one worker reads, what is repeated if a worker is lost, and what an interrupted run
has finished or not. Its collectors are the result of its task, so what a lost worker had counted is lost with it, and
another worker starts that block anew. Results are merged in the order of the blocks.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from oodline import errors
from oodline._util.checked import checked
from oodline._util.digests import digest
from oodline._util.files import write_atomically
from oodline._util.progress import track
from oodline._util.ranges import Count
from oodline.errors import EngineError, InputError, OodlineError, missing_extra
from oodline.model.classifier import Classifier
from oodline.passes.engine import Collector, Reads
from oodline.passes.local import Local
from oodline.passes.sharding import count_by_position, note_skipped, shard
from oodline.statistics import Seen

if TYPE_CHECKING:
    import ray

BLOCK, MOST_BLOCKS = 4096, 1000
"""Smallest number of images of a block, and largest number of blocks."""

SECONDS = 30.0
"""What was merged is written to the folder at least this often."""


class Ray:
    """Divides a pass into blocks that the workers of a Ray cluster take, one after the other.

    The cluster is the one that was started or named (`ray.init`, `RAY_ADDRESS`), or this machine. Where the classifier
    is on a GPU, each worker gets one.

    Parameters
    ----------
    workers : int, optional
        Processes that hold the model; as many as the cluster has GPUs, or CPUs where the classifier is on the CPU.
    block : int, optional
        Images per block; a lost worker costs one block. By default 4,096, or a thousandth of all if that is
        more. It does not depend on the workers, and so neither does the last bit of the result.
    folder : str or Path, optional
        Where to keep what was merged so far. A pass that was interrupted goes on from there when it is made again; the
        folder may be removed when all is done.

    Raises
    ------
    SettingError
        A setting is below 1.
    MissingExtraError
        Ray is not installed.
    EngineError
        From any pass: Ray failed, or a block did, other than by an error of oodline's, which is raised as it is.
    InputError
        From any pass: the loader cannot be divided by position.

    Examples
    --------
    >>> import oodline as ol
    >>> engine = ol.Ray(workers=8, folder="guard.unfinished")  # for ol.fit(..., engine=engine)
    >>> engine.is_main, engine.is_distributed
    (True, True)
    """

    is_main = True
    is_distributed = True

    @checked
    def __init__(
        self, *, workers: Count | None = None, block: Count | None = None, folder: str | Path | None = None
    ) -> None:
        if find_spec("ray") is None:
            raise missing_extra("ray", "ray", "passes by Ray")
        self.workers, self.block = workers, block
        self.folder = None if folder is None else Path(folder)

    def synchronised(self) -> AbstractContextManager[None]:
        """Nothing to wait for: this process hands out the work."""
        return nullcontext()

    def fill(
        self,
        collectors: Sequence[Collector],
        classifier: Classifier,
        loader: Iterable[Any],
        wanted: Reads,
        *,
        task: str,
        progress: bool = False,
    ) -> None:
        """Make one pass, block by block; see `Engine.fill`."""
        batches = count_by_position(loader)
        # what fails with any batch fails here and at once
        size = batches * len(next(classifier.stream(islice(loader, 1), **wanted))[0])
        blocks = min(batches, math.ceil(size / (self.block or max(BLOCK, size / MOST_BLOCKS))))
        collectors = [seen := Seen(), *collectors]
        about = (blocks, batches, _first_last(loader), _recipe(loader), wanted, classifier.head.fingerprint)
        key = repr((*about, *(collector.key for collector in collectors)))
        merged = _Merged(collectors, key, self.folder, task)
        work = _Work([c.fresh() for c in collectors], classifier, loader, wanted, blocks)
        left = [block for block in range(blocks) if block not in merged.done]
        try:
            for block, states in track(self._run(work, left), task, left, shown=progress):
                merged.take(block, states)
        finally:
            merged.write()
        if seen.empty:
            next(classifier.stream([]))  # says that there was no batch
        note_skipped(loader, seen)

    def finish(self) -> None:
        """Remove the folder: what it was kept for is written elsewhere."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, work: _Work, blocks: list[int]) -> Iterator[tuple[int, list[bytes]]]:
        if not blocks:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        import ray.data
        from ray.exceptions import RayError

        logging.getLogger("ray.data").setLevel(logging.ERROR)

        try:
            if not ray.is_initialized():
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            states: list[bytes] = []
            for row in self._rows(work, blocks):
                if row["error"]:
                    raise getattr(errors, row["error"], EngineError)(row["state"].decode())
                states.append(row["state"])
                if len(states) == len(work.collectors):
                    yield row["block"], states
                    states = []
        except RayError as error:
            raise EngineError(f"Ray failed: {str(error).strip().splitlines()[-1]}") from error

    def _rows(self, work: _Work, blocks: list[int]) -> Iterator[dict[str, Any]]:
        import ray

        gpus = int(work.classifier.device.type == "cuda")
        resources = ray.cluster_resources()
        workers = self.workers or max(1, int(resources.get("GPU" if gpus else "CPU", 1)))
        _carry_code_along(work)
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        with ray.data.DataContext.current(context):
            data = ray.data.from_items([{"block": block} for block in blocks], override_num_blocks=len(blocks))
            done = data.map_batches(
                _Worker,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
                # a reference in a list is handed on as it is, and each worker fetches what it stands for once
                fn_constructor_args=([ray.put(work)],),
                num_gpus=gpus,
            )
            yield from done.iter_rows()


@dataclass(frozen=True)
class _Work:
    """All that a worker must know."""

    collectors: list[Collector]
    classifier: Classifier
    loader: Iterable[Any]
    wanted: Reads
    blocks: int

    def rows(self, block: int) -> Iterator[dict[str, list[Any]]]:
        """What one block gave: a state for each collector, or the sentence of an error."""
        try:
            with ExitStack() as stack:
                collectors = [collector.fresh() for collector in self.collectors]
                for collector in collectors:
                    if isinstance(collector, AbstractContextManager):
                        stack.enter_context(collector)
                batches = iter(shard(self.loader, block, self.blocks))
                if (first := next(batches, None)) is not None:
                    Local().fill(collectors, self.classifier, chain([first], batches), self.wanted, task="")
                states = [collector.state_dict() for collector in collectors]
        except OodlineError as error:
            yield {"block": [block], "error": [type(error).__name__], "state": [str(error).encode()]}
            return
        for state in states:
            content = save({name: tensor.contiguous() for name, tensor in state.items()})
            yield {"block": [block], "error": [""], "state": [content]}


class _Worker:
    def __init__(self, work: list[ray.ObjectRef[_Work]]) -> None:
        import ray

        self.work: _Work = ray.get(work[0])

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[Any]]]:
        for block in batch["block"].tolist():
            yield from self.work.rows(block)


class _Merged:
    """Collectors with the blocks that went into them, as kept in the folder."""

    def __init__(self, collectors: Sequence[Collector], key: str, folder: Path | None, task: str) -> None:
        self.collectors, self.spare = collectors, [collector.fresh() for collector in collectors]
        self.done: list[int] = []
        self.path: Path | None = None
        self.written, self.when = 0, monotonic()
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EngineError(f"the folder {folder} cannot be made: {error.strerror}. Name another output.") from error
        self.path = folder / f"{task}-{digest(key)[:16]}.safetensors"
        others = [path for path in folder.glob(f"{task}-*.safetensors") if path != self.path]
        if others:
            raise EngineError(
                f"the folder {folder} holds what another run had done when it was interrupted, on other data, by other "
                "detectors or with another classifier. Finish that run, remove the folder, or name another output."
            )
        if self.path.is_file():
            try:
                self._read(self.path)
            except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
                raise EngineError(
                    f"what an interrupted run left in {folder} is damaged: {error}. Remove the folder to begin anew."
                ) from error

    def take(self, block: int, states: list[bytes]) -> None:
        """Merge what a block gave."""
        for collector, spare, state in zip(self.collectors, self.spare, states, strict=True):
            if content := load(state):
                spare.load_state_dict(content)
                collector.merge(spare)
        self.done.append(block)
        if monotonic() - self.when > SECONDS:
            self.write()

    def write(self) -> None:
        """Write all to the folder, if there is one and anything is new."""
        if self.path is None or len(self.done) == self.written:
            return
        tensors = {f"{i}/{k}": t.contiguous() for i, c in enumerate(self.collectors) for k, t in c.state_dict().items()}
        content = save(tensors, {"done": json.dumps(self.done)})
        write_atomically(self.path, lambda file: file.write(content))
        self.written, self.when = len(self.done), monotonic()

    def _read(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            self.done = json.loads(file.metadata()["done"])
            for i, collector in enumerate(self.collectors):
                names = [name for name in file.keys() if name.startswith(f"{i}/")]  # noqa: SIM118 - it is not a dict
                collector.load_state_dict({name.partition("/")[2]: file.get_tensor(name) for name in names})
        self.written = len(self.done)


def _first_last(loader: Iterable[Any]) -> tuple[str, ...]:
    source = getattr(loader, "source", None)
    return () if source is None else (source.name(0), source.name(len(source) - 1))


def _recipe(loader: Iterable[Any]) -> tuple[Any, ...]:
    """Where the samples lie and how they are prepared: not their content, which may be terabytes, or was repaired."""
    source = getattr(loader, "source", None)
    places = [str(Path(getattr(source, name)).absolute()) for name in ("root", "path") if getattr(source, name, None)]
    files = digest(repr(getattr(source, "files", None)))
    prepared: dict[str, str] = {}
    with suppress(InputError):  # a preprocessing of the user's own that cannot say what it does
        prepared = getattr(loader, "preparation", dict)()
    return (*places, files, *sorted(prepared.items()))


def _carry_code_along(work: _Work) -> None:
    # classes of a file that was run by its path, as python: references and own detectors are, have no module that a
    # worker could import
    from ray import cloudpickle

    detectors = [one for collector in work.collectors for one in getattr(collector, "detectors", {}).values()]
    modules = [module for one in (work.classifier.model, *detectors) for module in one.modules()]
    parts = [*modules, *work.collectors, work.loader, getattr(work.loader, "dataset", None)]
    for name in {type(part).__module__ for part in parts} - {"__main__"}:
        module = sys.modules.get(name)
        if hasattr(module, "__file__") and PathFinder.find_spec(name.partition(".")[0]) is None:
            cloudpickle.register_pickle_by_value(module)
