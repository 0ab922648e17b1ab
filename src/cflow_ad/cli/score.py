"""`cflow-ad score`: score an archive of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cflow_ad.cli.bars import bars
from cflow_ad.cli.common import plain_errors, print_message
from cflow_ad.cli.fleet import Address, EngineName, Gpus, Threads, WorkerDevice, Workers
from cflow_ad.cli.options import BatchSize

SOME_LEFT = 1


def score(
    archive: Annotated[
        str,
        typer.Argument(
            help="Folder or object store (s3://, gs://, az://) with images, tar shards or Parquet "
            "files; or one such file.",
            show_default=False,
        ),
    ],
    model: Annotated[
        Path, typer.Option("--model", "-m", help="A model file, as trained or exported.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for the results: a .parquet file a shard."),
    ],
    engine: EngineName = "local",
    workers: Workers = None,
    threads: Threads = None,
    gpus: Gpus = 0.0,
    decoders: Annotated[
        int,
        typer.Option(
            min=0,
            help="Threads (local) or tasks on any node (ray) that decode for each worker; with 0 "
            "the worker decodes itself, which suits a CPU.",
        ),
    ] = 0,
    per_shard: Annotated[
        int, typer.Option(min=1, help="About how many single images make a shard.")
    ] = 1000,
    image_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the images in Parquet files. [default: recognised]",
            show_default=False,
        ),
    ] = None,
    batch_size: BatchSize = 8,
    address: Address = None,
    device: WorkerDevice = None,
) -> None:
    """Score an archive, shard by shard, on this machine or a cluster.

    Writes for each shard a Parquet file with the columns image, score, is_anomalous, regions and
    error. A shard whose file is there is skipped, so that the same command continues after an
    interruption. An image that cannot be read has a row with its error.

    Exit status: 0, every image has its row; 1, a shard could not be read; 2, an error.
    """
    with plain_errors():
        from cflow_ad.fleet.engines import Engine
        from cflow_ad.fleet.scoring import Scoring, score_archive

        where = Engine(engine, workers, threads, decoders, gpus, address)
        wanted = Scoring(
            archive,
            model,
            output,
            per_shard=per_shard,
            image_column=image_column,
            decoders=decoders,
            batch_size=batch_size,
            device=device or ("cuda" if gpus else "cpu"),
        )
        totals = dict.fromkeys(("images", "anomalous", "unreadable"), 0)
        failed = shards = 0
        with bars() as shown:
            try:
                for done in score_archive(wanted, where):
                    shards += 1
                    if done.error:
                        failed += 1
                        print_message(f"{done.shard}: {done.error}", "red")
                    for name, number in done.counts.items():
                        totals[name] += number
                    shown.show("predict", totals["images"], None)
            except KeyboardInterrupt:
                print_message("whole shards are kept: the same command continues")
                raise
        typer.echo(
            f"{output}: {totals['images']} images in {shards - failed} shards; "
            f"{totals['anomalous']} anomalous, {totals['unreadable']} unreadable"
        )
        if failed:
            print_message(f"{failed} of {shards} shards could not be read; see above", "red")
            raise typer.Exit(SOME_LEFT)
