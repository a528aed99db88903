"""Draw an explanation: the input and its maps, its score among the held-out ones, missing and unexpected neurons."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Sequence
from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from PIL import Image as Picture

from oodline._util.drawing import ACCEPTED, FLAGGED, ID, OOD, QUIET, SOFT, THRESHOLD, new_figure, short, styled
from oodline._util.pixels import standard_image
from oodline.guard.explanation import Explanation, Neuron
from oodline.guard.map_overlay import panels_of
from oodline.guard.sentences import class_words, place_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

Sample = Callable[[int], "Image.Image | None"]
"""From a position in the training data to the image there."""

THUMBNAILS = 4
LEAST_ROWS = 5
BARS = 200
"""Important neurons to draw at most, those of the largest expected contribution."""


def draw_explanation(
    explanation: Explanation,
    *,
    image: Image.Image | None = None,
    sample: Callable[[int], Image.Image] | None = None,
) -> Figure:
    """Draw an explanation; see `Explanation.plot`."""
    with styled(scale=1.35):
        return _drawn(explanation, image, sample or _kept(explanation))


def _kept(explanation: Explanation) -> Sample | None:
    """The small pictures that the guard keeps, as a function; None where it keeps none of these."""
    shown = [one for neuron in (*explanation.missing, *explanation.unexpected) for one in neuron.samples]
    files = {one.index: b64decode(one.picture.partition(",")[2]) for one in shown if one.picture is not None}
    if not files:
        return None
    return lambda index: Picture.open(BytesIO(files[index]), formats=["JPEG"]) if index in files else None


def _drawn(explanation: Explanation, image: Image.Image | None, sample: Sample | None) -> Figure:
    figure = new_figure(13, 11, layout="none")
    _headline(figure, explanation)
    grid = figure.add_gridspec(3, 1, height_ratios=(1.35, 0.85, 1.5), left=0.035, right=0.985, top=0.80, bottom=0.05)
    grid.update(hspace=0.24)
    _pictures(figure, grid[0].subgridspec(1, 4, wspace=0.08), explanation, image)
    middle = grid[1].subgridspec(1, 2, width_ratios=(1, 1.9), wspace=0.16)
    _histogram(figure.add_subplot(middle[0]), explanation)
    _profile(figure.add_subplot(middle[1]), explanation)
    below = grid[2].subgridspec(1, 2, wspace=0.16)
    lists = ((explanation.missing, "Expected and missing"), (explanation.unexpected, "Unexpected and found"))
    for column, (neurons, title) in enumerate(lists):
        _neurons(figure.add_subplot(below[column]), neurons, title, sample)
    return figure


def _headline(figure: Any, explanation: Explanation) -> None:
    flagged = explanation.verdict["is_ood"]
    words = "Flagged as out-of-distribution" if flagged else "Accepted as in-distribution"
    if "place" in explanation.verdict:
        words = f"{'Flagged' if flagged else 'Accepted'}: {place_words(explanation.verdict)}"
    figure.text(0.035, 0.962, words, size=19, weight="bold", color=FLAGGED if flagged else ACCEPTED)
    lines = [line for sentence in explanation.sentences for line in wrap(sentence, 160)]
    figure.text(0.035, 0.95, "\n".join(lines), size=10.5, va="top", linespacing=1.3)


def _pictures(figure: Any, grid: Any, explanation: Explanation, image: Image.Image | None) -> None:
    axes, maps, pixels = figure.add_subplot(grid[0]), explanation.maps, explanation.pixels
    axes.set_axis_off()
    if image is None and pixels is None:
        axes.text(0.5, 0.5, "no picture of the input", ha="center", va="center", color=SOFT)
        return
    given = image if image is not None or pixels is None else Picture.fromarray(pixels.numpy())
    assert given is not None  # one of them is there
    shown = standard_image(given)
    axes.imshow(shown.convert("RGB"), interpolation="nearest" if max(shown.size) < 100 else "antialiased")
    axes.set_title("The input")
    _mark(axes, explanation.verdict, *shown.size)
    if maps is None or pixels is None:
        return
    name = class_words(explanation.predicted_class, explanation.predicted_class_name)
    titles = {
        "evidence": f"What speaks for {short(name)}",
        "missing": "Where less than usual speaks for it",
        "unexpected": "Where the unexpected is found",
    }
    for column, (key, picture) in enumerate(panels_of(explanation).items(), start=1):
        axes = figure.add_subplot(grid[column])
        axes.set_axis_off()
        axes.set_title(titles[key])
        if picture is not None:
            axes.imshow(picture, interpolation="antialiased")
        else:
            axes.text(0.02, 0.95, "none", color=SOFT, va="top", transform=axes.transAxes)


def _mark(axes: Any, verdict: dict[str, Any], width: int, height: int) -> None:
    """Frame the place of a map, or the box, whose verdict it is."""
    from matplotlib.patches import Rectangle

    if "box" in verdict:
        left, top, right, bottom = verdict["box"]
    elif len(verdict.get("grid", ())) == 2:
        (row, column), (rows, columns) = verdict["at"], verdict["grid"]
        least = max(width, height) / 32  # so that a pixel can be seen
        wide, tall = max(width / columns, least), max(height / rows, least)
        left, top = (column + 0.5) * width / columns - wide / 2, (row + 0.5) * height / rows - tall / 2
        right, bottom = left + wide, top + tall
    else:
        return
    axes.add_patch(
        Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=OOD, linewidth=2)
    )


def _histogram(axes: Any, explanation: Explanation) -> None:
    verdict, held_out = explanation.verdict, explanation.held_out
    colour = OOD if verdict["is_ood"] else ID
    if held_out is not None:
        axes.hist(held_out.tolist(), 40, color=QUIET, label="held-out ID")
    tall = 0.86  # of the panel; the legend is above
    axes.axvline(verdict["threshold"], 0, tall, label="threshold", **THRESHOLD)
    axes.axvline(verdict["score"], 0, tall, color=colour, linewidth=2.5, label="this input")
    axes.set_yticks([])
    axes.set_title("Score (higher = more in-distribution)")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.18)
    axes.legend(loc="upper center", ncols=3, handlelength=1.2, columnspacing=1)
    _bare(axes, "bottom")


def _profile(axes: Any, explanation: Explanation) -> None:
    order = explanation.expected[explanation.important].argsort(descending=True)[:BARS]
    expected = explanation.expected[explanation.important][order].tolist()
    found = explanation.found[explanation.important][order].tolist()
    places, width = range(len(expected)), 0.9
    axes.bar(places, expected, width, color=QUIET, label="expected: mean of the class")
    axes.bar(places, found, width * 0.55, color=ID, label="found in this input")
    axes.set_xlim(-1, len(expected))
    axes.set_xticks([])
    axes.axhline(0, color=SOFT, linewidth=0.8)
    fraction = explanation.found_total / explanation.expected_total if explanation.expected_total > 0 else float("nan")
    name = class_words(explanation.predicted_class, explanation.predicted_class_name)
    words = f"{explanation.found_total:.1f} of the expected {explanation.expected_total:.1f} found ({fraction:.0%})"
    title = f"The {int(explanation.important.sum())} important neurons of {name}: {words}"
    axes.set_title(title)
    axes.set_ylabel("contribution to the logit")
    axes.legend(loc="upper right")
    _bare(axes, "left")


def _neurons(axes: Any, neurons: Sequence[Neuron], title: str, sample: Sample | None) -> None:
    shown = sample is not None and any(neuron.samples for neuron in neurons)
    axes.set_title(title)
    if not neurons:
        axes.set_axis_off()
        axes.text(0, 0.95, "none", color=SOFT, va="top", transform=axes.transAxes)
        return
    places = range(len(neurons))
    axes.barh(places, [n.expected for n in neurons], 0.8, color=QUIET)
    axes.barh(places, [n.found for n in neurons], 0.42, color=ID)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_yticks(places, [str(n.neuron) for n in neurons])
    rows = max(len(neurons), LEAST_ROWS)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xlabel("contribution to the logit", loc="left")
    axes.locator_params(axis="x", nbins=5)
    axes.set_ylabel("neuron")
    _bare(axes, "left", "bottom")
    if any(n.z is not None for n in neurons) or shown:
        # the right part of the panel is for the z-scores and the images: bars keep to the left
        low, high = axes.get_xlim()
        axes.set_xlim(low, high + (high - low) * (2.3 if shown else 0.3))
        axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= high])
    for place, neuron in enumerate(neurons):
        y = 1 - (place + 0.5) / rows
        if neuron.z is not None:
            x = 0.46 if shown else 0.93
            axes.text(x, y, f"{neuron.z:+.1f} sd", size=9, va="center", ha="right", transform=axes.transAxes)
        if shown and sample is not None:
            found = [picture for one in neuron.samples if (picture := sample(one.index)) is not None]
            for rank, picture in enumerate(found[:THUMBNAILS]):
                inset = axes.inset_axes((0.48 + 0.13 * rank, y - 0.46 / rows, 0.125, 0.92 / rows))
                inset.imshow(standard_image(picture).convert("RGB"))
                inset.set_axis_off()
    if shown:
        note = "training images that excite it most"
        axes.text(1, -0.02, note, size=9, ha="right", va="top", color=SOFT, transform=axes.transAxes)


def _bare(axes: Any, *kept: str) -> None:
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(side in kept)
    axes.tick_params(labelsize=9)  # ticks are made later, when the style is no longer set
