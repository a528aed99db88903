"""Methods whose published description leaves something open; each says in `experimental` what."""
