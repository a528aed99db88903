"""`Preprocessing` where it used to live; see `oodline.model.preprocessing`."""

from oodline.model.preprocessing import Preprocessing

__all__ = ["Preprocessing"]
