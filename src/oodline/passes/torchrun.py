"""The torchrun engine: each rank of a torch.distributed process group processes a part of the data.

Every rank fills its own collectors; then they are merged in the order of the ranks on every rank, which makes the
result the same everywhere and in every run. A state is sent as safetensors bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain, islice
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save

from oodline._util.progress import track
from oodline.errors import EngineError, MismatchError, OodlineError, RankError
from oodline.model.classifier import Classifier
from oodline.passes.engine import Collector, Reads
from oodline.passes.sharding import note_skipped, shard
from oodline.statistics import Seen

ROUND = 16
"""Number of batches after which the ranks tell each other that all is well."""


class Torchrun:
    """Divides a pass among the ranks of the process group, which the launcher or the caller has initialised.

    Every rank makes the same calls with the same arguments: the whole loader, in the same order. All ranks end with
    the same fitted detectors and the same scores.

    Raises
    ------
    EngineError
        There is no process group.
    RankError
        From any call: a rank failed, or a sample was in the shares of two; raised on all of them, with the sentence.

    Notes
    -----
    Collectives run on the device of the group's backend, the CPU for gloo and the current GPU for nccl. Ranks take a
    step together every `ROUND` batches, so that none waits for longer than that, and an error ends all of them soon.

    Examples
    --------
    Two processes, by `torchrun --nproc-per-node 2 script.py`, or one process that is all of them:

    >>> import oodline as ol, tempfile
    >>> from oodline.testing import toy_problem
    >>> line = ol.LINe()
    >>> with tempfile.TemporaryDirectory() as folder, process_group(init_method=f"file://{folder}/a", rank=0, size=1):
    ...     _ = ol.fit([line], *toy_problem(), engine=ol.Torchrun())
    >>> line.fitted
    True
    """

    is_distributed = True

    def __init__(self) -> None:
        if not dist.is_initialized():
            raise EngineError(
                "there is no process group. Start the program by torchrun, and call Torchrun() within oodline.engines."
                "torchrun.process_group(), or after torch.distributed.init_process_group()."
            )
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device = torch.device("cpu" if "cpu:" in str(dist.get_backend_config()) else "cuda")

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @contextmanager
    def synchronised(self) -> Iterator[None]:
        """Run a block on every rank and wait for all; where it fails on one, raise `RankError` on all."""
        failure: Exception | None = None
        try:
            yield
        except RankError:
            raise  # all ranks have left the block
        except Exception as error:
            failure = error
        try:
            while self._step(_sentence(failure), busy=False):
                pass
        except RankError as error:
            raise error from failure

    def finish(self) -> None:
        """Nothing was kept."""

    def wait(self) -> None:
        """Wait until every rank is here."""
        while self._step("", busy=False):
            pass

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
        """Make one pass, each rank over its share; see `Engine.fill`."""
        collectors = [seen := Seen(), *collectors]  # first, to refuse a sample before it is counted twice
        with self.synchronised():
            self._check_same(repr(([c.key for c in collectors], classifier.head.fingerprint, wanted)))
            others = [collector.fresh() for collector in collectors]
            mine = shard(loader, self.rank, self.size)
            batches = iter(mine)
            first = next(batches, None)
        with self.synchronised():
            if first is not None:
                stream = classifier.stream(self._in_step(chain([first], batches)), **wanted)
                for activations, labels in track(stream, task, mine, shown=progress and self.is_main):
                    for collector in collectors:
                        collector.update(activations, labels)
            else:  # a head of several layers learns the number of classes from a batch, whoever's it is
                for batch in islice(loader, 1):
                    next(classifier.stream([batch]))
        with self.synchronised():
            for collector, other in zip(collectors, others, strict=True):
                self._merge(collector, other)
            if seen.empty:
                next(classifier.stream([]))  # says that there was no batch
        note_skipped(loader, seen)

    def _merge(self, collector: Collector, other: Collector) -> None:
        own = save({name: tensor.contiguous() for name, tensor in collector.state_dict().items()})
        collector.load_state_dict({})
        for rank in range(self.size):
            state = load(self._from(rank, own))
            if state:
                other.load_state_dict(state)
                collector.merge(other)

    def _in_step(self, batches: Iterable[Any]) -> Iterator[Any]:
        for number, batch in enumerate(batches, start=1):
            yield batch
            if number % ROUND == 0:
                self._step("", busy=True)

    def _step(self, failure: str, *, busy: bool) -> bool:
        """Tell the other ranks how this one is; return whether any of them is still busy."""
        flags = torch.tensor([self.size - self.rank if failure else 0, int(busy)], device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        failed, any_busy = flags.tolist()
        if failed:
            rank = self.size - failed
            raise RankError(f"rank {rank}: {self._from(rank, failure.encode()).decode()}")
        return bool(any_busy)

    def _from(self, rank: int, content: bytes) -> bytes:
        """What `rank` has as `content`, on every rank."""
        size = torch.tensor([len(content)], device=self.device)
        dist.broadcast(size, rank)
        if rank == self.rank:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self.device)
        else:
            data = torch.empty(int(size), dtype=torch.uint8, device=self.device)
        dist.broadcast(data, rank)
        return content if rank == self.rank else data.cpu().numpy().tobytes()

    def _check_same(self, mine: str) -> None:
        theirs = self._from(0, mine.encode()).decode()
        if theirs != mine:
            raise MismatchError(
                f"rank {self.rank} was asked for another pass than rank 0: {mine[:300]} against {theirs[:300]}. Every "
                "rank must name the same detectors in the same order, and load the same classifier."
            )


@contextmanager
def process_group(
    backend: str = "gloo", *, init_method: str | None = None, rank: int = -1, size: int = -1
) -> Iterator[None]:
    """A process group for as long as the block runs, by default the one that torchrun describes in the environment.

    Statistics live on the CPU, so gloo serves models on GPUs as well.
    """
    # a rank may take longer than PyTorch's half hour to load a model or to estimate
    dist.init_process_group(backend, init_method, timedelta(days=1), world_size=size, rank=rank)
    try:
        yield
    finally:
        dist.destroy_process_group()


def launched() -> bool:
    """Whether torchrun, or a launcher that says the same, started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def _sentence(error: Exception | None) -> str:
    if error is None:
        return ""
    return str(error) if isinstance(error, OodlineError) and str(error) else f"{type(error).__name__}: {error}"
