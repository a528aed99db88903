"""oodline in the tools of others: one file each, imported where it is used, each with an extra of its name."""
