"""`oodline fit`: from a classifier and its training data to one file of fitted, calibrated detectors."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated

from cyclopts import Parameter

from oodline.cli.engine import open_engine
from oodline.cli.options import (
    DataOptions,
    EngineName,
    Json,
    ModelOptions,
    load_classifier,
    open_loader,
    print_json,
    report_skipped,
    show_warnings,
)

_MODEL, _DATA = ModelOptions(), DataOptions()


def fit(
    *,
    data: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    detector: Annotated[list[str], Parameter(name=["--detector", "-d"])] | None = None,
    calibrate: str | None = None,
    tpr: float = 0.95,
    engine: EngineName = None,
    model: ModelOptions = _MODEL,
    reading: DataOptions = _DATA,
    json: Json = False,
) -> None:
    """Fit detectors on ID training data in one forward pass, calibrate them on held-out ID data, write one file.

    Parameters
    ----------
    data
        ID training data with labels: a folder of class folders, Parquet files, torchvision:NAME, hf:NAME.
    output
        The file to write (.safetensors).
    detector
        A method with settings, such as line,p_a=0.9,p_w=0.9,clip=1.0; repeat it for several, or "all". The first
        decides. See `oodline methods`.
    calibrate
        Held-out ID data on which to choose the threshold; without it the file gives scores and no verdicts.
    tpr
        Fraction of held-out ID images to accept.
    engine
        Who makes the pass: local; torchrun, the default where torchrun started the process; or ray, with settings such
        as ray,workers=8,block=100000. A run by Ray that was interrupted goes on where it was.
    json
        Print one JSON document on standard output, and nothing else there.
    """
    import oodline as ol
    from oodline.artifact import Artifact, FitInfo, ModelSource, write_artifact
    from oodline.calibration import calibrate as choose_threshold
    from oodline.calibration import check_tpr
    from oodline.cli.detectors import create_all
    from oodline.files import check_writable
    from oodline.head import HeadInfo
    from oodline.scoring import score, unreadable

    show_warnings()
    with open_engine(engine, output.with_name(f"{output.name}.unfinished")) as passes:
        with passes.together():
            if passes.leads:
                check_writable(output)
            check_tpr(tpr)
            detectors = create_all(detector or ["line"])
            loaded = load_classifier(model)
            classifier = loaded.classifier
            loader = open_loader(data, loaded.preprocessing, reading)
            held_out = None if calibrate is None else open_loader(calibrate, loaded.preprocessing, reading)
            started = perf_counter()
            refused = unreadable(detectors, classifier, loader)
            if len(refused) == len(detectors):
                raise next(iter(refused.values()))
        failures = {name: str(reason) for name, reason in refused.items()}
        detectors = {name: d for name, d in detectors.items() if name not in failures}
        try:
            ol.fit(list(detectors.values()), classifier, loader, engine=passes, progress=True)
        except ol.FitError as error:
            if len(error.failures) == len(detectors):
                raise
            failures |= {name: str(reason) for name, reason in error.failures.items()}
            detectors = {name: d for name, d in detectors.items() if name not in failures}
        fitted_seconds = perf_counter() - started
        skipped = report_skipped({"data": loader})
        calibrations = {}
        if held_out is not None:
            scores = score(detectors, classifier, held_out, engine=passes, progress=True)
            calibrations = {name: choose_threshold(values, tpr) for name, values in scores.items()}
            skipped |= report_skipped({"calibrate": held_out})
        samples = loader.num_samples - len(loader.skipped)
        artifact = Artifact(
            detectors=detectors,
            head=HeadInfo.of(classifier.head),
            calibrations=calibrations,
            class_names=loaded.class_names or loader.source.class_names,
            preprocessing=loaded.preprocessing,
            model=ModelSource(reference=loaded.reference, weights=loaded.weights, head=classifier.head_name),
            fit=FitInfo(data=data, samples=samples, calibration_data=calibrate),
        )
        if passes.leads:
            write_artifact(artifact, output)
        passes.finish()
    if not passes.leads:
        return
    summary = {
        "output": str(output),
        "bytes": output.stat().st_size,
        "detectors": list(detectors),
        "failed": failures,
        "samples": samples,
        "skipped": skipped,
        "fit_seconds": round(fitted_seconds, 2),
        "thresholds": {name: c.threshold for name, c in calibrations.items()},
        "tpr": tpr if calibrations else None,
    }
    if json:
        print_json(summary)
        return
    print(f"fitted {', '.join(detectors)} on {samples} images in {fitted_seconds:.1f} s")
    for name, reason in failures.items():
        print(f"left out {name}: {reason}")
    for name, calibration in calibrations.items():
        print(
            f"threshold of {name}: {calibration.threshold:.6g} (accepts {tpr:.1%} of {len(calibration.scores)} images)"
        )
    print(f"wrote {output} ({output.stat().st_size / 1e6:.2f} MB)")
    if not calibrations:
        print("No threshold yet: pass --calibrate HELD_OUT_ID_DATA for verdicts.")
