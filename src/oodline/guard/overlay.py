"""Draw a verdict of pixels: each image, its map of classes, and its map of scores with the flagged regions outlined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from oodline._util.drawing import ACCEPTED, FLAGGED, OOD, SOFT, new_figure, short, styled
from oodline.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from oodline.guard.row_verdict import RowVerdict

Pictures = Tensor | Sequence["Image.Image"]
"""Images (N, 3 or 1, H, W), uint8 or in [0, 1]; or PIL images."""

MOST = 6
"""Images in one figure, unless told otherwise."""

_AS_IT_IS: dict[str, Any] = {"interpolation": "nearest"}

NAMED = 12
"""Classes that a legend names at most."""


def draw_overlay(verdict: RowVerdict, images: Pictures, *, most: int = MOST) -> Figure:
    """Draw the first images of a verdict, one row each.

    Parameters
    ----------
    verdict : RowVerdict
        With maps.
    images : Tensor (N, channels, H, W) or sequence of PIL images
        What was judged, before its normalisation: uint8 or in [0, 1].
    most : int
        Images to draw.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    InputError
        There are not as many images as verdicts, or they are not in [0, 1].
    SettingError
        The rows have no map.
    """
    if len(images) != len(verdict):
        raise InputError(f"the verdict is of {len(verdict)} images; got {len(images)} to draw.")
    pictures = [_picture(image) for image in images[:most]]
    maps = {name: verdict.maps(name)[:most].double() for name in ("label", "score", "is_ood")}
    with styled():
        figure = new_figure(6.6, 2.2 * len(pictures) + 0.5)
        panels = figure.subplots(len(pictures), 3, squeeze=False)
        scores = maps["score"][~maps["score"].isnan()]
        low = scores.quantile(0.002) if len(scores) < 10**7 else scores.min()
        lowest, highest = min(float(low), float(verdict.threshold[0])), float(scores.max())
        for i, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            whole = (-0.5, width - 0.5, height - 0.5, -0.5)
            for axes in panels[i]:
                axes.set_axis_off()
                axes.imshow(picture, cmap="gray", extent=whole, vmin=0, vmax=1)
            panels[i][0].set_title(_headline(verdict, i), color=FLAGGED if bool(verdict.is_ood[i]) else ACCEPTED)
            _classes(panels[i][1], maps["label"][i], whole)
            shown = panels[i][2].imshow(
                maps["score"][i].numpy(),
                cmap="cividis",
                extent=whole,
                vmin=lowest,
                vmax=highest,
                interpolation="nearest",
            )
            _outlined(panels[i][2], maps["is_ood"][i], height, width)
        panels[0][1].set_title("class of each pixel")
        panels[0][2].set_title("score; flagged pixels outlined")
        bar = figure.colorbar(shown, ax=panels[:, 2].tolist(), shrink=0.7, aspect=30)
        bar.ax.axhline(float(verdict.threshold[0]), color=OOD, linewidth=1.5)
        bar.set_label("lower = less like training\nline = threshold", color=SOFT)
        _legend(figure, verdict, maps["label"])
    return figure


def _headline(verdict: RowVerdict, i: int) -> str:
    flagged = verdict.lists("is_ood")[i].double()
    share = float(flagged.mean()) if len(flagged) else 0.0
    word = "flagged" if bool(verdict.is_ood[i]) else "accepted"
    return f"{word}, p = {float(verdict.p_value[i]):.2g}\n{share:.1%} of pixels flagged"


def _colours(classes: int) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    many = colormaps["tab20"].colors  # type: ignore[attr-defined]
    return ListedColormap([many[(2 * c + c // 10) % 20] for c in range(classes)])


def _classes(axes: Any, label: Tensor, whole: tuple[float, ...]) -> None:
    classes = max(int(label.max()) + 1, 1)
    shown = label.masked_fill(label < 0, torch.nan)
    axes.imshow(
        shown.numpy(),
        cmap=_colours(classes),
        extent=whole,
        vmin=-0.5,
        vmax=classes - 0.5,
        alpha=0.75,
        interpolation="nearest",
    )


def _outlined(axes: Any, flagged: Tensor, height: int, width: int) -> None:
    if not bool(flagged.any()):
        return
    # one line along the edges of pixels: a contour of the map with every pixel made of several
    fine = 8
    rows, columns = flagged.shape
    dense = blocks(flagged, fine)
    x = (torch.arange(columns * fine) + 0.5) * width / (columns * fine) - 0.5
    y = (torch.arange(rows * fine) + 0.5) * height / (rows * fine) - 0.5
    axes.contour(x.numpy(), y.numpy(), dense.numpy(), levels=[0.5], colors=[OOD], linewidths=1.2)


def blocks(values: Tensor, times: int) -> Tensor:
    """Each value of a map (H, W) as a block.

    Examples
    --------
    >>> blocks(torch.tensor([[1, 2]]), 2)
    tensor([[1, 1, 2, 2],
            [1, 1, 2, 2]])
    """
    return values.repeat_interleave(times, 0).repeat_interleave(times, 1)


def _legend(figure: Figure, verdict: RowVerdict, labels: Tensor) -> None:
    from matplotlib.patches import Patch

    seen = [int(c) for c in torch.unique(labels).tolist() if c >= 0]
    if not seen or len(seen) > NAMED:
        return
    colours = _colours(seen[-1] + 1)
    names = [short(verdict.class_names[c]) if verdict.class_names else f"class {c}" for c in seen]
    patches = [Patch(color=colours(c), label=name) for c, name in zip(seen, names, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=6)


def _picture(image: Any) -> Any:
    from oodline._util.pixels import standard_image

    if not isinstance(image, Tensor):
        image = torch.as_tensor(_array(standard_image(image)))
    values = image.detach().cpu()
    values = values.float() / 255 if not values.is_floating_point() else values.float()
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        raise InputError(f"an image to draw must be (3, H, W) or (1, H, W); got shape {tuple(values.shape)}.")
    if bool((values < -1e-3).any() | (values > 1 + 1e-3).any()):
        raise InputError("images to draw must be uint8 or in [0, 1]: pass them as they were before normalisation.")
    return values.clamp(0, 1).permute(1, 2, 0).squeeze(2).numpy()


def _array(image: Image.Image) -> Any:
    import numpy as np

    return np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy()
