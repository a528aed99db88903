"""Passes over a data set: the engines that run them, and the collectors that they fill.

All engines fill collectors by `update`, combine them by `merge`, and give the same numbers.
"""
