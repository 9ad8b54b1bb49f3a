"""What Slurm's commands print, parsed.

Lines in any other form are ignored: sites print banners around the output.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "QUEUE_FORMAT",
    "SlurmJob",
    "array_expressions",
    "join_lines",
    "node_names",
    "parse_elements",
    "parse_queue",
    "parse_record",
    "parse_submitted",
]

# Array job, element, state, reason, walltime left, node, name, comment. The last two are so because those of a foreign
# job may contain the separator.
_SEPARATOR = "|"
QUEUE_FORMAT = _SEPARATOR.join(("%F", "%K", "%T", "%r", "%L", "%N", "%j", "%k"))


@dataclass(frozen=True)
class SlurmJob:
    """One element of a job array, as ``squeue`` shows it.

    Parameters
    ----------
    id : str
        ``<array job>_<element>``, as ``scancel`` accepts it.
    state, reason, node, comment, name : str
        As printed by ``squeue``.
    seconds_left : int or None
        Walltime left; None without a limit, or before the job starts.
    """

    id: str
    state: str
    reason: str
    seconds_left: int | None
    node: str
    comment: str
    name: str = ""

    @property
    def array(self) -> str:
        """The id of its array."""
        return self.id.partition("_")[0]

    @property
    def is_element(self) -> bool:
        """Whether it is one element of an array, and neither a job by itself nor what is left of a whole array."""
        return self.id.partition("_")[2].isdigit()

    @property
    def was_refused(self) -> bool:
        """Whether it was refused when it was submitted: Slurm shows a record also of what no node can run."""
        return self.state == "FAILED" and self.reason == "BadConstraints"


def parse_queue(text: str) -> list[SlurmJob]:
    r"""Parse the output of ``squeue --format`` with `QUEUE_FORMAT`.

    Examples
    --------
    >>> box = "|7|8|9|Maintenance|on|Friday|!|\n"
    >>> (job,) = parse_queue(f"Maintenance on Friday!\n{box}  7|0|RUNNING|None|1:30|node1|wrf|mine\n")
    >>> job.id, job.state, job.seconds_left, job.node, job.name, job.comment
    ('7_0', 'RUNNING', 90, 'node1', 'wrf', 'mine')
    """
    jobs = []
    for line in text.splitlines():
        fields = line.split(_SEPARATOR, QUEUE_FORMAT.count(_SEPARATOR))
        if len(fields) <= QUEUE_FORMAT.count(_SEPARATOR):
            continue
        array, element, state, reason, left, node, name, comment = fields
        array = array.strip()
        if not array.isdigit():  # a header, or a banner in a box
            continue
        job = f"{array}_{element}"
        jobs.append(SlurmJob(job, state, reason, _parse_left(left), node, comment, name))
    return jobs


def array_expressions(jobs: Iterable[str]) -> list[str]:
    """Return the elements of arrays as ``scancel`` takes them with one request for each array.

    Examples
    --------
    >>> array_expressions(["7_0", "7_1", "7_2", "7_5", "8_3", "9"])
    ['7_[0-2,5]', '8_3', '9']
    """
    elements: dict[str, list[int]] = {}
    for job in jobs:
        array, _, element = job.partition("_")
        elements.setdefault(array, []).extend([int(element)] if element else [])
    return [_expression(array, sorted(numbers)) for array, numbers in elements.items()]


def _expression(array: str, numbers: Sequence[int]) -> str:
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    text = ",".join("-".join(map(str, each)) for each in ranges)
    if not text:
        return array
    return f"{array}_{text}" if text.isdigit() else f"{array}_[{text}]"


def _parse_left(text: str) -> int | None:
    """Parse a time as ``squeue`` prints it for ``%L``, and ``scontrol`` for the limit of a job.

    Examples
    --------
    >>> [_parse_left(t) for t in ("1-02:03:04", "0:07", "UNLIMITED", "NOT_SET", "INVALID")]
    [93784, 7, None, None, None]
    """
    if not re.fullmatch(r"[\d:-]+", text):
        return None
    days, _, clock = text.rpartition("-")
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return int(days or 0) * 86400 + seconds


def parse_record(text: str) -> dict[str, str]:
    """Parse one line of ``scontrol --oneliner show job``.

    Examples
    --------
    >>> parse_record("JobId=7 JobState=FAILED ExitCode=127:0 Command=(null)")["ExitCode"]
    '127:0'
    """
    return dict(re.findall(r"(?:^|\s)([\w:/]+)=(\S*)", text.strip()))


def parse_elements(text: str) -> list[SlurmJob]:
    """Parse the elements of one array from ``scontrol --oneliner show job``, which has one line for all that wait.

    None are returned where a line does not name all of its elements: the others are not all that there are.

    Examples
    --------
    >>> line = "JobId=7 ArrayJobId=7 ArrayTaskId=0-1,4-8:4%2 JobState=PENDING Reason=Priority NodeList="
    >>> [job.id for job in parse_elements(line)]
    ['7_0', '7_1', '7_4', '7_8']
    >>> parse_elements(line.replace("4-8:4", "4,8,..."))
    []
    """
    found = []
    for line in text.splitlines():
        record = parse_record(line)
        array, elements = record.get("ArrayJobId"), record.get("ArrayTaskId", "")
        if not array or not elements:
            continue
        if not re.fullmatch(r"[\d,:-]+(%\d+)?", elements):
            return []
        node = record.get("NodeList", "").replace("(null)", "")
        state, reason = record.get("JobState", ""), record.get("Reason", "None")
        left, name = _seconds_left(record), record.get("JobName", "")
        for element in _elements(elements.partition("%")[0]):
            found.append(SlurmJob(f"{array}_{element}", state, reason, left, node, "", name))
    return found


def _seconds_left(record: Mapping[str, str]) -> int | None:
    limit, used = _parse_left(record.get("TimeLimit", "")), _parse_left(record.get("RunTime", ""))
    return None if not used or limit is None else max(0, limit - used)


def _elements(text: str) -> Iterator[int]:
    for part in text.split(","):
        bounds, _, step = part.partition(":")
        first, _, last = bounds.partition("-")
        yield from range(int(first), int(last or first) + 1, int(step or 1))


def node_names(text: str) -> list[str]:
    """Return the names of nodes that Slurm prints as an expression.

    Examples
    --------
    >>> node_names("node1"), node_names("gpu[08-10,12],login"), node_names("r[1-2]n[0-1]")
    (['node1'], ['gpu08', 'gpu09', 'gpu10', 'gpu12', 'login'], ['r1n0', 'r1n1', 'r2n0', 'r2n1'])
    """
    names: list[str] = []
    for each in re.findall(r"(?:[^,\[]|\[[^]]*\])+", text):
        parts = re.findall(r"\[([^]]*)\]|([^\[]+)", each)
        choices = [_numbers(ranges) if ranges else [plain] for ranges, plain in parts]
        names += map("".join, itertools.product(*choices))
    return names


def _numbers(text: str) -> list[str]:
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            return [f"[{text}]"]
        numbers = range(int(first), int(last or first) + 1)
        found += [str(number).zfill(len(first)) for number in numbers]
    return found


def parse_submitted(text: str) -> list[str]:
    r"""Return the job id that ``sbatch`` prints, if it does, with the numbers that its banners have.

    Examples
    --------
    >>> parse_submitted("Maintenance on Friday!\n7;cluster\n"), parse_submitted("Submitted batch job 7\n")
    (['7'], ['7'])
    >>> parse_submitted("hours left:\n2000\n7\n")
    ['2000', '7']
    """
    lines = r"^(?:Submitted batch job )?(\d+)(?:;\S+| on cluster \S+)?\s*$"
    return list(dict.fromkeys(re.findall(lines, text, re.MULTILINE)))


def join_lines(text: str) -> str:
    r"""Return an error message on one line, without the command's name before each part.

    Examples
    --------
    >>> join_lines("sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed\n")
    'invalid partition specified: x; Batch job submission failed'
    """
    lines = (re.sub(r"^\w+: (error: )?", "", line.strip()) for line in text.splitlines())
    return "; ".join(line for line in lines if line)
