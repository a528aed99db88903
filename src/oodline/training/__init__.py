"""Training recipes for OOD detection as parts of any training loop: losses, heads, and makers of outliers.

`Forward` gives features and logits with gradients; a `TrainingLoss` reads them, where the label -1 marks outliers; an
`OutlierMaker` makes outliers for a batch, and `mix` puts both into one; a `TrainingHead` takes the place of the last
layer. What comes out is a network as before, which `oodline.Classifier` and every detector read.
"""

from oodline.training.abet_head import AbeTHead
from oodline.training.ascood_head import ASCOODHead
from oodline.training.assignment import Assignment
from oodline.training.auxiliary import Auxiliary
from oodline.training.batches import OUTLIER, MixedBatch, mix
from oodline.training.checkpoint import load_checkpoint
from oodline.training.comparison import Comparison
from oodline.training.cross_entropy import CrossEntropy
from oodline.training.energy_clusters import EnergyClusters
from oodline.training.energy_margin import EnergyMargin
from oodline.training.epochs import History
from oodline.training.feature_norm_amplification import FeatureNormAmplification
from oodline.training.finetune import FineTuned, finetune
from oodline.training.forward import Forward
from oodline.training.gaussian import Gaussian
from oodline.training.gradient import Gradient
from oodline.training.gradient_regularised import GradientRegularised
from oodline.training.head import TrainingHead, replace_head
from oodline.training.imbalanced_ood import ImbalancedOOD
from oodline.training.kl_uniform import KLUniform
from oodline.training.kmeans import kmeans
from oodline.training.logit_norm import LogitNorm
from oodline.training.long_tail import auroc_by_group, class_groups, long_tail_counts, long_tail_rows
from oodline.training.loss import TrainingLoss
from oodline.training.outlier_exposure import OutlierExposure
from oodline.training.outlier_maker import OutlierMaker
from oodline.training.purity_assignment import PurityAssignment
from oodline.training.recipe import RECIPES, Network, Recipe
from oodline.training.shuffle import Shuffle
from oodline.training.shuffled import Shuffled
from oodline.training.spatial_contrast import SpatialContrast
from oodline.training.t2f_norm import T2FNorm
from oodline.training.ternary_assignment import TernaryAssignment

__all__ = [
    "OUTLIER",
    "RECIPES",
    "ASCOODHead",
    "AbeTHead",
    "Assignment",
    "Auxiliary",
    "Comparison",
    "CrossEntropy",
    "EnergyClusters",
    "EnergyMargin",
    "FeatureNormAmplification",
    "FineTuned",
    "Forward",
    "Gaussian",
    "Gradient",
    "GradientRegularised",
    "History",
    "ImbalancedOOD",
    "KLUniform",
    "LogitNorm",
    "MixedBatch",
    "Network",
    "OutlierExposure",
    "OutlierMaker",
    "PurityAssignment",
    "Recipe",
    "Shuffle",
    "Shuffled",
    "SpatialContrast",
    "T2FNorm",
    "TernaryAssignment",
    "TrainingHead",
    "TrainingLoss",
    "auroc_by_group",
    "class_groups",
    "finetune",
    "kmeans",
    "load_checkpoint",
    "long_tail_counts",
    "long_tail_rows",
    "mix",
    "replace_head",
]
