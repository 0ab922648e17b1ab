"""A run on a Ray cluster of two nodes, of which one is lost: started by a test as a process."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from cflow_ad.fleet.engines import Engine
from cflow_ad.fleet.manifest import read_manifest
from cflow_ad.fleet.on_ray import import_ray
from cflow_ad.fleet.runs import train_products
from cflow_ad.fleet.scoring import Scoring, score_archive
from tests.fleet.conftest import TINY


def main(manifest, store, archive, model, out):
    import_ray(alone=True)
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    try:
        other = cluster.add_node(**size)
        engine = Engine("ray", workers=2, address=cluster.address)
        events = []

        def disturb(pool):
            def act():
                while not (running := pool.processes):
                    time.sleep(0.05)
                os.kill(running[0], signal.SIGKILL)
                events.append("killed")
                cluster.remove_node(other, allow_graceful=False)  # and none comes in its place
                events.append("removed")

            threading.Thread(target=act, daemon=True).start()

        rows = list(
            train_products(
                read_manifest(Path(manifest), changes=TINY),
                store,
                engine,
                device="cpu",
                opened=disturb,
            )
        )
        wanted = Scoring(archive, Path(model), Path(out), per_shard=4, device="cpu")
        ends = list(score_archive(wanted, engine))
    finally:
        cluster.shutdown()
    result = {
        "events": events,
        "states": {row.product: row.state for row in rows},
        "attempts": sum(row.attempts for row in rows),
        "errors": [end.error for end in ends if end.error],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
