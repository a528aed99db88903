"""UDG's purity rule: an unlabelled sample takes the label of its cluster (Yang et al., ICCV 2021)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from oodline._util.checked import checked
from oodline._util.ranges import Count, Positive, Share
from oodline.data.batch import Loader
from oodline.detectors.paper import Paper
from oodline.model.classifier import Classifier
from oodline.training.assignment import Assignment, gather
from oodline.training.batches import OUTLIER
from oodline.training.kmeans import kmeans


class PurityAssignment:
    """Labelled and unlabelled samples are clustered together; a cluster that is nearly all of one class is that class.

    Where more than `purity` of a cluster are labelled samples of one class, its unlabelled samples take that class; all
    others are outliers. Where instead more than `outlier_purity` of it are unlabelled, its samples weigh `enhancement`
    times in the loss of the outliers; the released code looks for this only in clusters in which nothing, "unlabelled"
    included, is above `purity`, so that with both at 0.8, its defaults, it never happens. Assign anew each epoch.
    Losses: cross-entropy on labelled and assigned samples + 0.5 times the uniform cross-entropy of the outliers, as
    `OutlierExposure`; the authors add 0.1 times that of an auxiliary head that predicts the cluster, which is not here.

    Parameters
    ----------
    clusters : int
        How many, at most one per sample; the authors have 1000 for 50,000 + 50,000 images.
    purity, outlier_purity : float
        In [0, 1].
    enhancement : float
        Above 0.
    components : int
        Principal components that features are reduced to before; none are left out where there are fewer features.

    Examples
    --------
    >>> from oodline.testing import toy_loader, toy_problem
    >>> _ = torch.manual_seed(0)
    >>> classifier, loader = toy_problem()
    >>> labelled = [*loader, *toy_loader(seed=2), *toy_loader(seed=3)]
    >>> unlabelled = [torch.cat([toy_loader(seed=1)[0][0], torch.full((60, 4), -9.0)])]
    >>> found = PurityAssignment(clusters=8, purity=0.6)(classifier, labelled, unlabelled)
    >>> bool((found.labels[60:] == -1).all()), found.counts()["inliers"] > 20
    (True, True)
    """

    paper: ClassVar = Paper("Semantically Coherent Out-of-Distribution Detection", "ICCV 2021", "2108.11941")

    @checked
    def __init__(
        self,
        *,
        clusters: Count = 1000,
        purity: Share = 0.8,
        outlier_purity: Share = 0.8,
        enhancement: Positive = 2.0,
        components: Count = 256,
    ) -> None:
        self.clusters, self.components = clusters, components
        self.purity, self.outlier_purity, self.enhancement = purity, outlier_purity, enhancement

    @checked
    def __call__(self, classifier: Classifier, labelled: Loader, unlabelled: Loader) -> Assignment:
        """Cluster both sets by their features, and assign every sample of the unlabelled one.

        Parameters
        ----------
        classifier : Classifier
            As far as it is trained.
        labelled : iterable
            ID training data with labels.
        unlabelled : iterable
            A mixture, in the order that the assignment is to have.

        Raises
        ------
        LabelError
            The labelled set has no labels.
        InputError
            There are fewer samples than clusters.
        """
        known, labels = gather(classifier, labelled, labelled=True)
        found, none = gather(classifier, unlabelled, labelled=False)
        points = reduced(torch.cat([known.features, found.features]), self.components)
        whole = self.assign(kmeans(points, self.clusters), torch.cat([labels, none]))
        rows = slice(len(labels), None)
        return Assignment(whole.labels[rows], whole.kept[rows], whole.weights[rows])

    def assign(self, clusters: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> Assignment:
        """From the cluster (N,) and the label (N,) of every sample, -1 for unlabelled ones; all samples are kept.

        A labelled sample takes the class of its cluster as well, as in the released code.
        """
        members = nn.functional.one_hot(clusters).double()
        kinds = nn.functional.one_hot(labels - OUTLIER).double()  # the first column is for unlabelled samples
        share = members.T @ kinds / members.sum(0).clamp(min=1).unsqueeze(1)
        largest, kind = share.max(1)
        pure = largest > self.purity
        label = torch.where(pure, kind + OUTLIER, OUTLIER)
        weight = torch.where(~pure & (share[:, 0] > self.outlier_purity), self.enhancement, 1.0)
        return Assignment(label[clusters], torch.ones(len(labels), dtype=torch.bool), weight[clusters].float())


def reduced(features: Tensor, components: int) -> Tensor:
    """The principal components of the features (N, D) that vary most, each of unit variance, and rows of unit length.

    As in the clustering of the authors.
    """
    centred = features.double() - features.double().mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    kept = values.argsort(descending=True)[:components]
    kept = kept[values[kept] > 1e-9 * values.amax()]
    return nn.functional.normalize(centred @ vectors[:, kept] / values[kept].sqrt(), dim=1).float()
