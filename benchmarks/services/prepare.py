"""Fill a migrated database: `prepare.py ROWS`, at DATABASE_URL. Prints what one trip takes.

As JSON: the median time in milliseconds in which `SELECT 1` is answered at TRIP_URL. Nothing else
runs meanwhile, so it shows whether the latency that was asked for is the one there is.
"""

import asyncio
import json
import os
import statistics
import sys
import time

import asyncpg

SAMPLES = 100


async def main(rows: int) -> None:
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    await connection.execute(
        f"INSERT INTO items (name) SELECT 'item ' || n FROM generate_series(1, {rows}) n"
    )
    await connection.execute("VACUUM ANALYZE items")
    await connection.close()

    connection = await asyncpg.connect(os.environ["TRIP_URL"], statement_cache_size=0)
    trips = []
    for _ in range(SAMPLES):
        begun = time.perf_counter()
        await connection.execute("SELECT 1")
        trips.append(time.perf_counter() - begun)
    await connection.close()
    print(json.dumps({"trip_ms": round(statistics.median(trips) * 1000, 3)}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
