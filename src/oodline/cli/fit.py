"""`oodline fit`: fit detectors on training data, calibrate them, and write one guard file."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from oodline._util.files import check_writable
from oodline.cli.checks import (
    check_data,
    check_detectors,
    check_engine,
    check_guard_output,
    check_least,
    check_model,
    check_rates,
    check_reading,
    load_detectors,
)
from oodline.cli.engine import open_engine
from oodline.cli.options import (
    DataOptions,
    DetectorsFrom,
    EngineName,
    Json,
    ModelOptions,
    load_classifier,
    open_loader,
    print_json,
    report_skipped,
    with_masks,
)
from oodline.cli.parameters import DETECTOR, OUTPUT
from oodline.cli.printing import say
from oodline.cli.running import RunOptions
from oodline.errors import SettingError

_MODEL, _DATA, _RUN = ModelOptions(), DataOptions(), RunOptions()


def fit(
    *,
    data: str,
    output: Annotated[Path, OUTPUT],
    detector: Annotated[list[str] | None, DETECTOR] = None,
    calibrate: str | None = None,
    masks: str | None = None,
    false_alarm: float | None = None,
    tpr: float | None = None,
    by: Literal["all", "predicted"] = "all",
    neurons: int = 0,
    neuron_pictures: int = 0,
    keep_inputs: int = 0,
    engine: EngineName = None,
    model: ModelOptions = _MODEL,
    reading: DataOptions = _DATA,
    running: RunOptions = _RUN,
    detectors_from: DetectorsFrom = None,
    json: Json = False,
) -> None:
    """Fit detectors on ID training data in one forward pass and write them to one guard file.

    With --calibrate, the file also holds a threshold per detector, chosen on held-out ID data.

    Parameters
    ----------
    data
        ID training data with labels: a folder with one subfolder per class, Parquet files, torchvision:NAME or
        hf:NAME; or a file of tensors: .npz, .npy, .pt or .safetensors. With --model features, its arrays are
        `features`, `logits` and `labels`. For a model of texts: a CSV, TSV, JSON lines, JSON or Parquet file, with
        --text-column and --label-column where these are not found by name.
    output
        The guard file to write (.safetensors).
    detector
        A detector, with settings if wanted: line,p_a=0.9,p_w=0.9,clip=1.0; repeat for several, or "all". The verdicts
        are by the first one. `oodline methods` lists them. If omitted, the default: several, fused, chosen to suit
        the network's features.
    calibrate
        Held-out ID data to choose the threshold on. If omitted, the file gives scores but no verdicts. Fused detectors
        use 20 % of it as reference scores, if there is enough, and choose the threshold on the rest.
    masks
        For --rows pixels: folder of the masks of --data, PNG files whose pixels are numbers of classes, under the names
        of the images. The same as --data FOLDER,masks=MASKS. If omitted, detectors that need labels are left out.
    false_alarm
        Largest fraction of ID images to flag as OOD, between 0 and 1; 0.05 if omitted. Holds for data that is
        distributed as the held-out data is.
    tpr
        The same as a true-positive rate, as papers state it: --tpr 0.95 is --false-alarm 0.05. Give one of the two.
    by
        Keep the false-alarm rate on average over all images (all), or within each predicted class (predicted).
    neurons
        Number of most activating training images to keep per neuron, for `oodline explain`; 0 for none.
    neuron_pictures
        Number of these images to store in the file, small (48 pixels, about 1.3 kB each), so that `oodline serve` and
        `oodline explain` show them. Whoever has the file can see them. With 0, their positions in the data are shown.
    keep_inputs
        Number of held-out inputs to store in the file, at most 8. When the file is loaded, the classifier must give the
        same outputs for them, up to rounding. With 0, synthetic inputs are used, which reveal nothing of the data.
    engine
        How to run the forward pass: local (one process), torchrun (one process per rank), or ray with settings, such as
        ray,workers=8,block=100000. If omitted, torchrun if it started this process, else local. An interrupted ray run
        resumes when the command is repeated.
    json
        Print one JSON document on standard output and nothing else.
    """
    check_rates(false_alarm, tpr)
    check_least("--neurons", neurons, 0)
    check_least("--neuron-pictures", neuron_pictures, 0)
    if neuron_pictures and not neurons:
        raise SettingError("--neuron-pictures are of the images that --neurons keeps. Add --neurons 3.")
    check_engine(engine)
    check_reading(reading)
    load_detectors(detectors_from)
    check_detectors(detector or [])
    check_model(model)
    data = with_masks(data, masks)
    check_data(data, calibrate)
    check_guard_output(output, data, calibrate, model.weights)

    from oodline.cli.detectors import create_all
    from oodline.data import ImageLoader
    from oodline.data.decoding import read_image
    from oodline.data.stated import class_names_of
    from oodline.detectors.base import Detector
    from oodline.detectors.fuse import Fuse
    from oodline.guard.artifact import FitInfo, ModelSource
    from oodline.guard.fit_guards import fit_guards
    from oodline.scoring.calibration import check_enough, check_false_alarm, false_alarm_of
    from oodline.scoring.class_calibration import ClassCalibration

    running.show_warnings()
    with open_engine(engine, output.with_name(f"{output.name}.unfinished")) as passes:
        with passes.synchronised():
            if passes.is_main:
                check_writable(output)
            rate = false_alarm_of(false_alarm, tpr)
            check_false_alarm(rate)
            detectors = create_all(detector or [])
            loaded = load_classifier(model, data=data, running=running)
            classifier = loaded.classifier
            loader = open_loader(data, loaded, reading, class_names=loaded.class_names)
            if neuron_pictures and (classifier.rows is not None or not isinstance(loader, ImageLoader)):
                unit = loader.unit if classifier.rows is None else classifier.rows.name
                raise SettingError(f"--neuron-pictures are of images, and these are {unit}. Leave it out.")
            theirs = loader.source.class_names or loaded.class_names
            held_out = None if calibrate is None else open_loader(calibrate, loaded, reading, class_names=theirs)
            if held_out is not None:
                check_enough(held_out.num_samples, rate)
        fitted = fit_guards(
            detectors,
            classifier,
            loader,
            held_out,
            false_alarm=rate,
            by=by,
            neurons=neurons,
            preprocessing=None if loaded.of_features else loaded.preprocessing,
            label_names=theirs,
            keep_inputs=keep_inputs,
            engine=passes,
            progress=running.progress,
        )
        classes = classifier.head.num_classes
        names = class_names_of(loaded.class_names, loader, classes)
        skipped = report_skipped({"data": loader} | ({} if held_out is None else {"calibrate": held_out}), running)
        samples = loader.num_samples - len(loader.skipped)
        if passes.is_main:
            if neuron_pictures and fitted.artifact.neurons is not None:
                assert isinstance(loader, ImageLoader)  # it was asked for
                fitted.artifact.neurons.keep_pictures(partial(read_image, loader.source), neuron_pictures)
            fitted.save(
                output,
                model=ModelSource(reference=loaded.reference, weights=loaded.weights, head=classifier.head_name),
                fit=FitInfo(data=data, samples=samples, calibration_data=calibrate),
                class_names=names,
            )
            running.say_change(classifier, held_out or loader, fitted.artifact.detectors)
        passes.finish()
    if not passes.is_main:
        return
    calibrations, accuracy, backbone = fitted.artifact.calibrations, fitted.accuracy, fitted.artifact.backbone
    fitted_names = list(fitted.artifact.detectors)
    summary = {
        "output": str(output),
        "bytes": output.stat().st_size,
        "detectors": fitted_names,
        "failed": {name: str(reason) for name, reason in fitted.failures.items()},
        "left_out": fitted.left_out,
        "samples": samples,
        "backbone": None if backbone is None else asdict(backbone),
        "reason": {name: each.reason for name, each in fitted.artifact.detectors.items() if each.reason},
        "accuracy": accuracy.value,
        "skipped": skipped,
        "fit_seconds": round(fitted.seconds, 2),
        "thresholds": {name: c.threshold for name, c in calibrations.items()},
        "false_alarm": rate if calibrations else None,
    }
    for warning in (accuracy.warning, accuracy.order):
        if warning:
            running.warn(warning)
    if json:
        print_json(summary)
    if json or running.quiet:
        return
    right = (
        "" if accuracy.value is None else f"; the classifier gets {100 * accuracy.value:.1f} % of their labels right"
    )
    say(f"fitted {', '.join(fitted_names)} on {samples} {loader.unit} in {fitted.seconds:.1f} s{right}")
    if backbone is not None:
        say(f"the network: {backbone.summary}")
    for name, each in fitted.artifact.detectors.items():
        for one in each.modules():
            if isinstance(one, Detector) and one.reason:
                where = name if one is each else f"{one.name} in {name}"
                say(f"{where} is {', '.join(member for member, _ in one.members)}: {one.reason}")
    for name, reason in fitted.failures.items():
        say(f"left out {name}: {reason}")
    for name, members in fitted.left_out.items():
        say(f"{name} does without {', '.join(members)}")
    for name, calibration in calibrations.items():
        small = len(calibration.small) if isinstance(calibration, ClassCalibration) else 0
        threshold = f"{calibration.threshold:.6g}"
        if by == "predicted":
            threshold = f"one for each of {classes - small} predicted classes" if small < classes else "one for all"
        promise = f"flags at most {100 * rate:.3g} % of ID {loader.unit}, after {len(calibration.scores)} held-out ones"
        if isinstance(fitted.artifact.detectors[name], Fuse) and held_out is not None:
            others = held_out.num_samples - len(held_out.skipped) - len(calibration.scores)
            promise += f", and {others} others are what it compares with" if others > 0 else ""
        say(f"threshold of {name}: {threshold} ({promise})")
        if small:
            say(
                f"  {small} of {classes} classes have too few held-out {loader.unit} for a threshold of their own; "
                "they share one"
            )
    if neuron_pictures and (known := fitted.artifact.neurons) is not None and known.pictures is not None:
        say(f"the file holds small pictures of {len(known.pictures.index)} training images")
    say(f"wrote {output} ({output.stat().st_size / 1e6:.2f} MB)")
    if not calibrations:
        say("No threshold yet: pass --calibrate HELD_OUT_ID_DATA for verdicts.")
