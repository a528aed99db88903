"""Training recipes beside their authors' released code, on the same tensors.

    OODLINE_AUTHORS=FOLDER python -m benchmarks.accuracy.training_authors

FOLDER holds clones of the repositories, each under its own name: ASCOOD, Greg-OOD, RNA, imood, MODE-OOD, abet and
ICCV21_SCOOD. Of each, only the function or the lines in question are run, on the CPU; nothing of them is kept here.
Prints what theirs and ours give, and their difference; `tests/training/test_authors.py` holds the values.
"""

from __future__ import annotations

import ast
import copy
import importlib.util
import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodline.testing import activations_of
from oodline.training import (
    AbeTHead,
    ASCOODHead,
    FeatureNormAmplification,
    Forward,
    Gradient,
    GradientRegularised,
    ImbalancedOOD,
    KLUniform,
    PurityAssignment,
    Shuffle,
    SpatialContrast,
    long_tail_counts,
)
from oodline.training.energy_clusters import chosen_rows
from oodline.training.spatial_contrast import contrastive

COUNTS = (40, 20, 10)
LABELS = torch.tensor([0, 1, 2, 0, -1, -1, -1])


def waves(*shape: int, step: float = 0.7) -> Tensor:
    """Numbers that need no generator: sines (float64)."""
    return torch.sin(torch.arange(int(np.prod(shape)), dtype=torch.float64) * step + step).reshape(shape)


def waved(module: nn.Module, step: float = 0.37) -> nn.Module:
    """The module in float64, its parameters filled with waves."""
    with torch.no_grad():
        for i, parameter in enumerate(module.double().parameters()):
            parameter.copy_(waves(*parameter.shape, step=step + 0.1 * i))
    return module


def network() -> nn.Module:
    """A small network without batch norm, for images (N, 2, 4, 4)."""
    return waved(nn.Sequential(nn.Conv2d(2, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)))


def function(path: Path, name: str, names: dict[str, Any]) -> Any:
    """One function of a file, alone; a dotted name for a method, or a function inside another."""
    node: Any = ast.parse(path.read_text())
    for part in name.split("."):
        node = next(n for n in ast.walk(node) if getattr(n, "name", None) == part)
    node.decorator_list = []
    scope = {"torch": torch, "F": nn.functional, "nn": nn, "np": np, **names}
    exec(compile(ast.Module([node], []), str(path), "exec"), scope)
    return scope[node.name]


def lines(path: Path, inside: str, first: str, last: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run statements of a function, from the one that begins with `first` to the one that begins with `last`."""
    tree = ast.parse(path.read_text())
    scope = {"torch": torch, "F": nn.functional, "np": np, **names}
    body = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == inside)
    for node in ast.walk(body):
        for block in (getattr(node, "body", None), getattr(node, "orelse", None)):
            texts = [ast.unparse(s) for s in block] if isinstance(block, list) else []
            begins = [i for i, text in enumerate(texts) if text.startswith(first)]
            ends = [i for i, text in enumerate(texts) if text.startswith(last)]
            if begins and ends and isinstance(block, list):
                exec(compile(ast.Module(block[begins[0] : ends[-1] + 1], []), str(path), "exec"), scope)
                return scope
    raise LookupError(first)


def module(path: Path) -> Any:
    """A file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def show(what: str, theirs: Any, ours: Any) -> None:
    a, b = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (theirs, ours))
    sums = f"theirs {float(a.sum()):.10f}, ours {float(b.sum()):.10f}"
    print(f"{what}: {sums}, largest difference {float((a - b).abs().max()):.1e}")


def ascood(folder: Path) -> None:
    trainer, name = folder / "openood/trainers/ascood_trainer.py", "ASCOODTrainer"
    net, images, labels = network(), waves(4, 2, 4, 4), torch.tensor([0, 1, 2, 0])
    forward = Forward(net)
    me = SimpleNamespace(net=copy.deepcopy(net), p_inv=0.3, alpha=2.0)
    slope = function(trainer, f"{name}.get_saliency_map", {})(me, images.clone(), labels)
    torch.manual_seed(0)
    theirs = function(trainer, f"{name}.shuffle_ood", {})(me, images, slope)
    torch.manual_seed(0)
    show(
        "ASCOOD shuffle, weighted sum",
        theirs * waves(4, 2, 4, 4, step=0.3),
        Shuffle(fraction=0.3)(forward, images, labels) * waves(4, 2, 4, 4, step=0.3),
    )
    theirs = function(trainer, f"{name}.gradient_ood", {})(me, images, slope)
    show("ASCOOD gradient", theirs, Gradient(fraction=0.3, alpha=2.0)(forward, images, labels))
    logits = waves(7, 3) * 3
    scope = {"self": SimpleNamespace(kl_loss=nn.KLDivLoss(reduction="batchmean"), w=1.0, num_classes=3)}
    target = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    outlier = LABELS == -1
    scope |= {
        "logit": torch.cat([logits[~outlier], logits[outlier]]),
        "batch_size": 4,
        "target": labels,
        "target_ood": target,
    }
    found = lines(trainer, "train_epoch", "id_logit, ood_logit", "id_loss", scope)
    loss = found["id_loss"] + scope["self"].kl_loss(found["ood_logit"].log_softmax(1), target)
    show("ASCOOD loss", loss, KLUniform()(activations_of(logits), LABELS))
    net_file = module(folder / "openood/networks/ascood_net.py")
    head = ASCOODHead(6, 3)
    waved(head)
    features = waves(4, 6)
    show("ASCOOD head", head.linear(net_file.z_std(features) * 0.5), head(features))


def greg(folder: Path) -> None:
    file = folder / "train_sea.py"
    args = SimpleNamespace(m_in=-1.5, m_out=-0.9, beta=0.1, oodMethod="energy")
    net, images = network(), waves(7, 2, 4, 4)
    order = torch.cat([torch.nonzero(LABELS != -1), torch.nonzero(LABELS == -1)]).flatten()
    data = images[order]
    names = {"clf": net, "num_id": 4, "args": args}
    jacobian = function(file, "jacobianLossFunction", names)
    logit = net(data)
    margins = lines(file, "main", "energyIn =", "energyLoss", {**names, "logit": logit})["energyLoss"]
    slopes = torch.autograd.functional.jacobian(jacobian, data, True).flatten(1)
    theirs = nn.functional.cross_entropy(logit[:4], LABELS[order][:4]) + margins + slopes.norm(dim=1).mean()
    loss = GradientRegularised(m_in=-1.5, m_out=-0.9)
    mine = loss(Forward(net)(images, loss.needs), LABELS)
    show("GReg loss", theirs, mine)
    show("GReg gradient of the first layer", *(torch.autograd.grad(x, net[0].weight)[0] for x in (theirs, mine)))
    centres = torch.eye(6, dtype=torch.float64).repeat_interleave(5, 0)
    features, logits = centres + 0.01 * waves(30, 6), waves(30, 3, step=0.9) * 3
    clf = SimpleNamespace(forward=lambda _, ret_feat: (logits, features))
    args = SimpleNamespace(oodMethod="energy", repr="norm", num_cluster=6, n_init=3, sampleTwoWay=True)
    from sklearn.cluster import KMeans

    choose = function(file, "clusterAndChooseSamples", {"KMeans": KMeans, "random": random})
    theirs = choose(clf, torch.arange(30), 3, 0, 30, 6, False, args)
    mine = chosen_rows(-logits.logsumexp(1), features, 6, 12)
    show("GReg+ chosen rows", theirs.sort().values, mine.sort().values)


def rna(folder: Path) -> None:
    features, logits, prior = waves(7, 6), waves(7, 3) * 3, torch.tensor(COUNTS).double() / 70
    loss = waved(FeatureNormAmplification(num_features=6, class_counts=COUNTS, projection=4))
    order = torch.cat([torch.nonzero(LABELS != -1), torch.nonzero(LABELS == -1)]).flatten()
    names = {
        "all_logits": logits[order],
        "all_reps": features[order],
        "N_in": 4,
        "labels": LABELS[order][:4],
        "prior": prior,
        "args": SimpleNamespace(tau=1, Lambda=0.5, ddp=False),
        "model": SimpleNamespace(forward_projection=loss.projection),
    }
    theirs = lines(folder / "train.py", "train", "in_logits =", "loss = LA_loss", names)["loss"]
    show("RNA loss", theirs, loss(activations_of(features, None).replace(logits=logits), LABELS))
    counts = function(folder / "datasets/ImbalanceCIFAR.py", "IMBALANCECIFAR10.get_img_num_per_cls", {})
    theirs = counts(SimpleNamespace(data=range(50000)), 10, "exp", 0.01)
    show("long-tail counts", theirs, long_tail_counts(5000, 10, 0.01))


def imood(folder: Path) -> None:
    features, logits = waves(8, 6), waves(8, 3) * 3
    labels = torch.tensor([0, 1, 0, 1, -1, -1, -1, -1])  # each ID sample twice, as its two views
    prior = torch.tensor(COUNTS).double() / 70
    base = folder / "models/base.py"
    for kind, metric in (("energy", "ada_energy"), ("linear", "ada_bin_disc")):
        loss = waved(ImbalancedOOD(num_features=6, class_counts=COUNTS, discriminator=kind))
        me = SimpleNamespace(num_classes=3, aux_linear=loss.inlier_logit, lambda_linear=loss.log_lambda)
        for name in ("parse_logits", "parse_ada_ood_logits", "forward_lambda", "forward_aux_classifier"):
            scope = {"Tuple": tuple}
            setattr(me, name, function(base, f"BaseModel.{name}", scope).__get__(me))
        me.calc_aux_loss = lambda *_: 0
        given = logits if kind == "energy" else torch.cat([logits, loss.inlier_logit(features)], 1)
        calc = function(base, "BaseModel.calc_loss", {}).__get__(me)
        inner, outer, _ = calc(given, features, labels[:2], prior.log()[None], SimpleNamespace(ood_metric=metric))
        mine = loss(activations_of(features, None).replace(logits=logits), labels)
        show(f"ImOOD loss, {kind}", inner + 0.5 * outer, mine)


def alpa(folder: Path) -> None:
    losses, attention = module(folder / "ALPA/losses.py"), module(folder / "ALPA/attention.py")
    maps, labels = waves(6, 4, 2, 2), torch.tensor([0, 1, 0, 1, 0, 2])
    similarity = waved(attention.AttentionSimilarity(4, 3))
    theirs = losses.ContrastiveLoss(temperature=10.0)(maps, labels=labels, attention=similarity)
    mine = SpatialContrast(channels=4, inner=3, alone=True).double()
    for name in ("query", "key", "value"):
        getattr(mine, name).load_state_dict(getattr(similarity, name).state_dict())
    show("ALPA loss", theirs, contrastive(10 * mine.similarity(maps), labels))
    waved(mine)
    print(f"ALPA loss with waved parameters: {float(contrastive(10 * mine.similarity(maps), labels).detach()):.10f}")


def abet(folder: Path) -> None:
    nets = module(folder / "nets.py")
    body = nn.Identity()
    body.output_size = 6
    theirs = nets.LearnedTemperatureClassificationNet(body, 3).double()
    head = AbeTHead(6, 3).double()
    with torch.no_grad():
        theirs.h.h.weight.copy_(waves(3, 6))
        head.directions.copy_(waves(3, 6))
        for temperature in (theirs.temperature, head.temperature):
            temperature[0].weight.copy_(waves(1, 6, step=0.4))
            temperature[0].bias.fill_(0.1)
    features = waves(5, 6, step=0.9)
    logits = theirs.h(features) / (theirs.temperature(features) + 1e-12)  # as its forward, which reads float32 for T
    show("AbeT logits in training mode", logits, head(features))


def udg(folder: Path) -> None:
    clusters = np.array([0] * 10 + [1] * 7 + [3] * 2 + [1] * 3 + [2] * 5 + [3] * 18)
    labelled = np.array([1] * 9 + [0] + [2] * 5 + [0] * 2 + [2] * 2)
    unlabelled = -np.ones(45 - len(labelled), dtype=int)
    dataset = SimpleNamespace(pseudo_label=labelled)
    other = SimpleNamespace(pseudo_label=unlabelled)
    for inlier, outlier in ((0.8, 0.8), (0.95, 0.8)):
        me = SimpleNamespace(
            idf_method="udg",
            purity_ind_thresh=inlier,
            purity_ood_thresh=outlier,
            oe_enhance_ratio=2.0,
            num_clusters=4,
            labeled_train_loader=SimpleNamespace(dataset=dataset),
            unlabeled_train_loader=SimpleNamespace(dataset=other),
        )
        names = {
            "self": me,
            "cluster_id": clusters,
            "num_train_data": len(labelled),
            "logger": SimpleNamespace(info=print),
        }
        file = folder / "scood/trainers/udg_trainer.py"
        found = lines(file, "_run_clustering", "old_train_pseudo_label", "if self.idf_method", names)
        labels = torch.cat([torch.as_tensor(labelled), torch.as_tensor(unlabelled)])
        mine = PurityAssignment(purity=inlier, outlier_purity=outlier).assign(torch.as_tensor(clusters), labels)
        show(f"UDG labels, {inlier}", found["new_pseudo_label"], mine.labels)
        show(f"UDG weights, {inlier}", found["new_ood_conf"], mine.weights)


def main() -> None:
    where = os.environ.get("OODLINE_AUTHORS")
    if where is None:
        sys.exit("OODLINE_AUTHORS must be the folder of the authors' repositories; it is not set.")
    folder = Path(where)
    parts = {
        "ASCOOD": ascood,
        "Greg-OOD": greg,
        "RNA": rna,
        "imood": imood,
        "MODE-OOD": alpa,
        "abet": abet,
        "ICCV21_SCOOD": udg,
    }
    for name, compare in parts.items():
        if (folder / name).is_dir():
            compare(folder / name)
        else:
            print(f"{name}: not in {folder}")


if __name__ == "__main__":
    main()
