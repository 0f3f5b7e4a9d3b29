"""Checkpoints before risky steps: a step that goes wrong costs that step alone.

python examples/checkpoints.py
"""

import asyncio
import sys

from pyrepl_kernel import Session, WorkerDied

STEPS = (
    ("load", "orders = [{'price': n % 7 + 1, 'items': n % 3} for n in range(100_000)]"),
    ("total", "total = sum(order['price'] * order['items'] for order in orders)"),
    ("clean", "orders.clear()  # was meant for another list\nassert orders, 'nothing is left'"),
    ("native", "import ctypes; ctypes.string_at(0)  # a library that crashes"),
    ("report", "print(f'{len(orders)} orders, {total} in total')"),
)


async def main() -> None:
    """Run each step, and undo those that fail."""
    async with Session() as session:
        for name, code in STEPS:
            checkpoint = await session.checkpoint(f"before {name}")
            try:
                outcome = await session.run(code)
                problem = f"{outcome.error.ename}: {outcome.error.evalue}" if outcome.error else ""
            except WorkerDied as death:
                problem = f"the worker {death.reason}"
            if not problem:
                print(f"{name}: done. {outcome.stdout}".rstrip())
                continue
            await session.rollback(checkpoint.name)
            print(f"{name}: {problem}; back to the state before it")


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("Checkpoints are forks of the worker, and need Linux.")
    asyncio.run(main())
