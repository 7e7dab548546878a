"""``python -m seg3d.cli``."""

from seg3d.cli import main

main()
