"""Values that a shell, a template, Slurm or a container runtime might misinterpret."""

VALUES = [
    "it's",
    '"double"',
    "$(touch pwned)",
    "`touch pwned`",
    "two\nlines",
    "ü → 気",
    "a,b c",
    "\\",
    "%A $HOME",
]
