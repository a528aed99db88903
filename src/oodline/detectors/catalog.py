"""Detectors by name: the table of those that oodline has, explicit, lazy and free of torch; and how one is built."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from oodline._util.spec import parse_reference
from oodline.detectors.registry import home_of, registered_class, registered_names
from oodline.errors import OodlineError, SettingError, UnknownNameError, unknown_name

if TYPE_CHECKING:
    from oodline.detectors.base import Detector

CATALOG: dict[str, str] = {
    "line": "oodline.detectors.line:LINe",
    "msp": "oodline.detectors.msp:MSP",
    "max-logit": "oodline.detectors.max_logit:MaxLogit",
    "energy": "oodline.detectors.energy:Energy",
    "react": "oodline.detectors.react:ReAct",
    "dice": "oodline.detectors.dice:DICE",
    "ash-s": "oodline.detectors.ash:ASHS",
    "ash-p": "oodline.detectors.ash:ASHP",
    "ash-b": "oodline.detectors.ash:ASHB",
    "scale": "oodline.detectors.ash:SCALE",
    "lts": "oodline.detectors.lts:LTS",
    "feature-norm": "oodline.detectors.feature_norm:FeatureNorm",
    "gradnorm": "oodline.detectors.feature_norm:GradNorm",
    "she": "oodline.detectors.she:SHE",
    "caref": "oodline.detectors.cadref:CARef",
    "cadref": "oodline.detectors.cadref:CADRef",
    "fdbd": "oodline.detectors.fdbd:FDBD",
    "ora": "oodline.detectors.ora:ORA",
    "relative-mahalanobis": "oodline.detectors.relative_mahalanobis:RelativeMahalanobis",
    "residual": "oodline.detectors.vim:Residual",
    "vim": "oodline.detectors.vim:ViM",
    "nnguide": "oodline.detectors.nnguide:NNGuide",
    "fm-pls": "oodline.detectors.fm_pls:FMPLS",
    "itp": "oodline.detectors.itp:ITP",
    "ddcs": "oodline.detectors.ddcs:DDCS",
    "weiper-msp": "oodline.detectors.weiper:WeiPerMSP",
    "weiper-kld": "oodline.detectors.weiper:WeiPerKLD",
    "conjnorm": "oodline.detectors.conjnorm:ConjNorm",
    "cop": "oodline.detectors.kernel_pca:CoP",
    "corp": "oodline.detectors.kernel_pca:CoRP",
    "neco": "oodline.detectors.neco:NECO",
    "nci": "oodline.detectors.nci:NCI",
    "vra": "oodline.detectors.vra:VRA",
    "bats": "oodline.detectors.bats:BATS",
    "ras": "oodline.detectors.ras:RAS",
    "adascale": "oodline.detectors.adascale:AdaSCALE",
    "optfs": "oodline.detectors.optfs:OptFS",
    "map-agreement": "oodline.detectors.map_agreement:MapAgreement",
    "rankfeat": "oodline.detectors.rankfeat:RankFeat",
    "gmm": "oodline.detectors.gmm:GMM",
    "openmax": "oodline.detectors.openmax:OpenMax",
    "entropy": "oodline.detectors.entropy:Entropy",
    "gen": "oodline.detectors.entropy:GEN",
    "nll": "oodline.detectors.nll:NLL",
    "mahalanobis": "oodline.detectors.mahalanobis:Mahalanobis",
    "knn": "oodline.detectors.knn:KNN",
    "relation": "oodline.detectors.relation:Relation",
    "kl-matching": "oodline.detectors.kl_matching:KLMatching",
    "temperature-scaling": "oodline.detectors.temperature_scaling:TemperatureScaling",
    "odin": "oodline.detectors.odin:ODIN",
    "i-odin": "oodline.detectors.odin:IODIN",
    "nap": "oodline.detectors.nap:NAP",
    "nap-combined": "oodline.detectors.nap_combined:NAPCombined",
    "mode-csd": "oodline.detectors.mode_csd:ModeCSD",
    "layered-mahalanobis": "oodline.detectors.layered_mahalanobis:LayeredMahalanobis",
    "gram": "oodline.detectors.gram:Gram",
    "pro": "oodline.detectors.pro:PRO",
    "nac": "oodline.detectors.nac:NAC",
    "prior-normalised": "oodline.detectors.prior_normalised:PriorNormalised",
    "fuse": "oodline.detectors.fuse:Fuse",
    "mcm": "oodline.detectors.mcm:MCM",
    "neglabel": "oodline.detectors.neglabel:NegLabel",
    "joint-energy": "oodline.detectors.joint_energy:JointEnergy",
    "band-energy": "oodline.detectors.band_energy:BandEnergy",
    "hact": "oodline.detectors.experimental.hact:HAct",
    "sisom": "oodline.detectors.experimental.sisom:SISOM",
    "soft-line": "oodline.detectors.experimental.soft_line:SoftLINe",
    "fisher-gradnorm": "oodline.detectors.experimental.fisher_gradnorm:FisherGradNorm",
}


def detector_names() -> list[str]:
    """Names of all detectors: those of the catalog, then own ones that are registered.

    Examples
    --------
    >>> detector_names()[:3]
    ['line', 'msp', 'max-logit']
    """
    return [*CATALOG, *registered_names()]


def is_known(name: str) -> bool:
    """Whether a detector has this name; nothing is imported.

    Examples
    --------
    >>> is_known("energy"), is_known("enregy")
    (True, False)
    """
    return name in CATALOG or name in registered_names()


def unknown_detector(name: str) -> UnknownNameError:
    """Build the error for a name that no detector has: the nearest one, and how an own detector gets a name."""
    return UnknownNameError(
        f"{unknown_name('detector', name, detector_names())} Register your own: oodline.register(Class), or "
        "--detectors-from FILE.py."
    )


def detector_class(name: str) -> type[Detector]:
    """Look up the class of a detector.

    Raises
    ------
    UnknownNameError
        There is none of that name; the message says the nearest.
    DetectorError
        An own detector that is registered cannot be imported.

    Examples
    --------
    >>> detector_class("energy").__name__
    'Energy'
    """
    if name not in CATALOG:
        own = registered_class(name)
        if own is None:
            raise unknown_detector(name)
        return own
    module, _, attribute = CATALOG[name].partition(":")
    found: type[Detector] = getattr(importlib.import_module(module), attribute)
    return found


def is_named(detector: Detector) -> bool:
    """Whether the detector's name leads back to its class, so that a file may hold it.

    Examples
    --------
    >>> from oodline import Energy
    >>> is_named(Energy())
    True
    """
    if detector.name in CATALOG:
        return CATALOG[detector.name] == home_of(type(detector))
    own = registered_class(detector.name)
    return own is not None and home_of(own) == home_of(type(detector))


def is_own(detector: Detector) -> bool:
    """Whether the detector, or a member of it, is not one of oodline's.

    Examples
    --------
    >>> from oodline import Energy, ReAct
    >>> is_own(ReAct(scorer=Energy()))
    False
    """
    return detector.name not in CATALOG or any(is_own(member) for _, member in detector.members)


def create_detector(reference: str) -> Detector:
    """Build a detector from `name,setting=value,...`, as the command line writes it.

    Parameters
    ----------
    reference : str
        A name of the catalog, or of an own detector that is registered, with settings.

    Raises
    ------
    UnknownNameError
        Unknown detector.
    SettingError
        Unknown setting, or one out of range.

    Examples
    --------
    >>> create_detector("line,p_a=.9,p_w=0.9,clip=1.0").settings["p_a"]
    0.9
    >>> create_detector("line,preset=cifar100-densenet100,clip=0.9").settings["p_a"]
    0.1
    >>> create_detector("react,scorer=dice").scorer.name
    'dice'
    >>> create_detector("fuse,detectors=line:clip=98%+energy").detectors[0].settings["clip"]
    '98%'
    """
    parsed = parse_reference(reference)
    return build_detector(parsed.name, parsed.options)


def build_detector(name: str, settings: dict[str, Any]) -> Detector:
    """Build a detector from its name and settings; `preset` names a set of them; a member may be given by its name.

    Raises
    ------
    UnknownNameError, SettingError
        As `create_detector`.
    """
    cls = detector_class(name)
    if "preset" in settings:
        stated = cls.presets.get(str(settings["preset"]))
        if stated is None:
            raise unknown_name(f"preset of '{name}'", str(settings["preset"]), cls.presets)
        settings = {**stated.settings, **{key: value for key, value in settings.items() if key != "preset"}}
    parameters = inspect.signature(cls).parameters
    unknown = [key for key in settings if key not in parameters]
    if unknown:
        known = ", ".join(parameters) or "none at all"
        raise SettingError(f"'{name}' has no setting '{unknown[0]}'. It has: {known}.")
    try:
        return cls(**settings)
    except OodlineError:
        raise
    except (TypeError, ValueError) as error:
        raise SettingError(f"'{name}' cannot be made with these settings: {error}.") from error


def write_reference(detector: Detector, also: Collection[str] = ()) -> str:
    """The reference that `create_detector` turns into a detector of these settings.

    Parameters
    ----------
    detector : Detector
        Of the catalog; its fitted state is not written.
    also : collection of str
        Settings to write although they have their default.

    Raises
    ------
    SettingError
        A member has settings of its own, for which the grammar has no place.

    Examples
    --------
    >>> from oodline import LINe
    >>> write_reference(LINe(clip="90%"), also=["p_a"])
    'line,p_a=0.1,clip=90%'
    >>> from oodline import KNN, Fuse
    >>> write_reference(Fuse(["energy", KNN(k=5)]))
    'fuse,detectors=energy+knn:k=5'
    """
    from oodline.detectors.base import is_member

    parts = [detector.name]
    defaults = {key: parameter.default for key, parameter in inspect.signature(type(detector)).parameters.items()}
    plain = type(detector)()
    for key, value in detector.settings.items():
        if is_member(value):
            if repr(value) == repr(plain.settings[key]):
                continue
            if isinstance(value, tuple):
                parts.append(f"{key}={'+'.join(_in_a_list(one) for one in value)}")
                continue
            if repr(value) != repr(detector_class(value.name)()):
                raise SettingError(f"{key}={value!r} has settings of its own, which a reference cannot say.")
            parts.append(f"{key}={value.name}")
        elif key in also or value != defaults[key]:
            parts.append(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    return ",".join(parts)


def _in_a_list(member: Detector) -> str:
    text = write_reference(member)
    if "+" in text or ":" in text:
        raise SettingError(f"{member!r} has settings that a reference cannot say of one among several.")
    return text.replace(",", ":")
