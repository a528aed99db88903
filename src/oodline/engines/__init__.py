"""Who makes the pass over the data: this process, the ranks of torchrun, or the workers of Ray.

All of them fill the same collectors by `update` and bring them together by `merge`, and give the same numbers.
"""
