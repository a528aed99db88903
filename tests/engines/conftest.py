"""The scripts beside the tests are run in processes of their own."""

collect_ignore = ["problem.py", "rank.py"]
