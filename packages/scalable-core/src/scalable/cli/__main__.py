"""``python -m scalable.cli`` is ``scalable``."""

from scalable.cli.group import main

main(prog_name="scalable")
