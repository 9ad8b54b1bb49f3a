"""Run tasks on each kind of worker, and print which worker ran them."""

from distributed import get_worker

from scalable.session import ScalableSession


def greet(number: int) -> str:
    """Return which worker runs this task."""
    return f"task {number} ran on {get_worker().name}"


if __name__ == "__main__":
    with ScalableSession.from_yaml() as client:
        tasks = [
            client.submit(greet, n, tag=tag) for tag in ("model", "analysis") for n in range(3)
        ]
        print(*client.gather(tasks), sep="\n")
