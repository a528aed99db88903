"""A finished run for people: one page that needs no network, and figures for papers."""
