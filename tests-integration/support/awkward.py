"""Values that a shell, a template, Slurm or a container's runtime might read as something else."""

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
