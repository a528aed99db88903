"""One pass over a data set: who makes it, and what it fills.

All engines fill the same collectors by `update` and bring them together by `merge`, and give the same numbers.
"""
