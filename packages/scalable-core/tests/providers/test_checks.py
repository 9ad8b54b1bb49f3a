"""Problems of targets and components that several providers look for."""

from __future__ import annotations

from scalable.providers.checks import find_name_clashes, no_effect_warnings
from scalable.providers.labels import dns_label
from scalable.testing.offline import spec_of


def test_names_that_a_backend_cannot_distinguish() -> None:
    spec = spec_of("desk", components="GCAM: {}\ngcam: {}\nother: {}\ng-cam: {}")
    [issue] = find_name_clashes(spec, dns_label)
    assert issue.path == "components.gcam"
    assert "'GCAM'" in issue.message


def test_fields_that_a_component_does_not_set_are_no_warning() -> None:
    spec = spec_of("desk", "room: attic", "gcam: {cpus: 4}\nplots: {}")
    issues = list(no_effect_warnings(spec, "cpus", "desks have one each"))
    assert [(issue.path, issue.severity) for issue in issues] == [
        ("components.gcam.cpus", "warning")
    ]
    assert "has no effect on target 'here': desks have one each" in issues[0].message
