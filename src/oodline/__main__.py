"""`python -m oodline`."""

from oodline.cli import main

main()
