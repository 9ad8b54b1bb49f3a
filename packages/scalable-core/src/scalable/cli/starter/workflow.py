"""A workflow: it names tasks, and no machine."""

from scalable.session import ScalableSession


def simulate(member: int) -> int:
    """Stand for a model run."""
    return member**2


def summarise(results: list[int]) -> float:
    """Stand for an analysis of all runs."""
    return sum(results) / len(results)


if __name__ == "__main__":
    with ScalableSession.from_yaml() as client:
        runs = client.map(simulate, range(100), task="simulate")
        mean = client.submit(summarise, runs, task="summarise")
        print(f"mean of {len(runs)} runs: {mean.result()}")
