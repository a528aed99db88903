"""`EnergyClusters`: varied outliers, near and far, of many candidates (GReg+; Sharifi et al., ECCV 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from oodline._util.checked import checked
from oodline._util.ranges import NonNegative, Positive
from oodline.errors import SettingError
from oodline.training.auxiliary import Auxiliary
from oodline.training.energy_margin import energy
from oodline.training.forward import Forward
from oodline.training.kmeans import kmeans
from oodline.training.outlier_maker import OutlierMaker


class EnergyClusters(OutlierMaker):
    """Of auxiliary candidates, clustered by their normalised features, those of lowest and highest energy per cluster.

    For a batch of N ID samples: `candidates * N` candidates pass the network in evaluation mode; the `skip * N` of the
    lowest energy, most like ID samples, are left out; the others make N clusters by k-means. Each cluster gives its
    samples of lowest and of highest energy, and random candidates fill up to 2 N outliers. For `GradientRegularised`,
    which is then GReg+.

    Parameters
    ----------
    auxiliary : Auxiliary
        Where candidates come from.
    candidates : float
        For each ID sample; 6 as in the authors' code (384 for a batch of 64).
    skip : float
        For each ID sample; 0.25 as in the authors' code (16).

    Raises
    ------
    SettingError
        Fewer than two candidates are left for each ID sample.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> maker = EnergyClusters(Auxiliary([torch.randn(100, 4)]), candidates=4)
    >>> maker(Forward(classifier.model), loader[0][0][:5], loader[0][1][:5]).shape
    torch.Size([10, 4])
    """

    @checked
    def __init__(self, auxiliary: Auxiliary, *, candidates: Positive = 6.0, skip: NonNegative = 0.25) -> None:
        if candidates - skip < 2:
            raise SettingError(
                f"`candidates` must be at least 2 more than `skip`, {skip:g}, since 2 outliers are chosen for each ID "
                f"sample; got {candidates:g}."
            )
        self.auxiliary, self.candidates, self.skip = auxiliary, candidates, skip

    def restart(self) -> None:
        """Begin at the start of the candidates."""
        self.auxiliary.restart()

    def __call__(self, forward: Forward, inputs: Tensor, labels: Tensor) -> Tensor:
        """Outliers (2 N, ...)."""
        size = len(inputs)
        candidates = self.auxiliary.take(round(self.candidates * size)).to(inputs)
        forward.find_head(inputs)
        activations = forward.classifier(candidates)
        order = energy(activations.logits).argsort()[round(self.skip * size) :]
        chosen = chosen_rows(energy(activations.logits)[order], activations.features[order], size, 2 * size)
        return candidates[order[chosen].to(candidates.device)]


def chosen_rows(
    energies: Float[Tensor, " n"], features: Float[Tensor, "n d"], clusters: int, total: int
) -> Int[Tensor, " total"]:
    """Rows of lowest and of highest energy of each cluster of normalised features, then random others up to `total`."""
    assigned = kmeans(nn.functional.normalize(features, dim=1), clusters)
    picked = torch.zeros(len(energies), dtype=torch.bool, device=energies.device)
    for cluster in range(clusters):
        members = torch.nonzero(assigned == cluster).flatten()
        if len(members):
            picked[members[energies[members].argmin()]] = picked[members[energies[members].argmax()]] = True
    others = torch.nonzero(~picked).flatten()
    rest = others[torch.randperm(len(others), device=others.device)[: total - int(picked.sum())]]
    return torch.cat([torch.nonzero(picked).flatten(), rest])
