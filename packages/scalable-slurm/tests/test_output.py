from __future__ import annotations

from scalable.providers.slurm.output import parse_queue


def test_a_comment_with_the_separator_in_it_is_kept_whole() -> None:
    (entry,) = parse_queue("7|0|PENDING|Priority|NOT_SET||x|mine | yours\n")
    assert (entry.id, entry.comment, entry.seconds_left) == ("7_0", "mine | yours", None)
