"""A workflow names tasks, not machines."""

from scalable.session import ScalableSession


def simulate(member: int) -> int:
    """Compute one member; your model goes here."""
    return member**2


def summarise(results: list[int]) -> float:
    """Compute the mean of all members; your analysis goes here."""
    return sum(results) / len(results)


if __name__ == "__main__":
    with ScalableSession.from_yaml() as client:
        runs = client.map(simulate, range(100), task="simulate")
        mean = client.submit(summarise, runs, task="summarise")
        print(f"mean of {len(runs)} runs: {mean.result()}")
