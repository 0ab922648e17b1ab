"""`cflow-ad fleet`: models of many products, in one store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cflow_ad.cli.bars import bars
from cflow_ad.cli.common import parse_settings, plain_errors, print_message
from cflow_ad.cli.options import (
    PRESET_HELP,
    SETTING_HELP,
    Device,
    Layout,
    ModelOutput,
    path_argument,
)

if TYPE_CHECKING:
    from cflow_ad.fleet.runs import Row

SOME_LEFT = 1

app = typer.Typer(no_args_is_help=True, help="Train and keep the models of many products.")

Store = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="FOLDER|URL",
        help="The model store: a folder, or s3://, gs:// or az://, with credentials from the "
        "environment.",
        show_default=False,
    ),
]
ProductName = Annotated[str, typer.Argument(help="Name of a product.", show_default=False)]
VersionName = Annotated[
    str | None,
    typer.Option("--version", help="A version, or the beginning of its name.", show_default=False),
]
EngineName = Annotated[
    str, typer.Option(help="local: processes of this machine; ray: a Ray cluster.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of workers. [default: all that the cores allow]", show_default=False
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Cores of each worker. [default: cores / workers]", show_default=False
    ),
]
Gpus = Annotated[
    float,
    typer.Option(min=0, help="GPUs of each worker: with 0.5 two workers share one, with 0 none."),
]
WorkerDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Where workers run, as torch names it (cpu, cuda). "
        "[default: cuda with --gpus, else cpu]",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Address of the Ray cluster. [default: RAY_ADDRESS; else Ray starts on this machine]",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


@app.command()
def train(
    manifest: Annotated[
        Path,
        path_argument("CSV file: product, good (a folder), and optionally preset and settings."),
    ],
    store: Store,
    engine: EngineName = "local",
    workers: Workers = None,
    threads: Threads = None,
    gpus: Gpus = 0.0,
    address: Address = None,
    preset: Annotated[str, typer.Option(help=PRESET_HELP)] = "default",
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=SETTING_HELP)
    ] = None,
    attempts: Annotated[
        int, typer.Option(min=1, help="How often to try a product if its error may be temporary.")
    ] = 3,
    work: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Folder for checkpoints. [default: a temporary folder]"
        ),
    ] = None,
    device: WorkerDevice = None,
    as_json: AsJson = False,
) -> None:
    """Train a model for each product of a manifest.

    A product is kept if the store has a model of the same images, settings, number of threads and
    version of cflow-ad, so that the same command continues after an interruption. The first model
    of a product is promoted; `fleet promote` chooses a later one.

    Exit status: 0, all products have their model; 1, some failed; 2, an error.
    """
    with plain_errors():
        from cflow_ad.fleet.engines import Engine
        from cflow_ad.fleet.manifest import read_manifest
        from cflow_ad.fleet.runs import train_products

        where = Engine(engine, workers, threads, gpus=gpus, address=address)
        products = read_manifest(manifest, preset=preset, changes=parse_settings(setting or []))
        on = device or ("cuda" if gpus else "cpu")
        found: dict[str, Row] = {}
        try:
            for row in train_products(
                products, store, where, device=on, work=work, attempts=attempts
            ):
                found[row.product] = row
                print_message(
                    f"{len(found)} of {len(products)}: {row.product} {row.state}"
                    + (f": {row.error}" if row.error else ""),
                    "red" if row.state == "failed" else None,
                )
        except KeyboardInterrupt:
            print_message("what is trained is kept: the same command continues")
            raise
        rows = [found[product.name] for product in products]
        _show(rows, as_json)
        failed = [row.product for row in rows if row.state == "failed"]
        if failed:
            print_message(f"failed: {len(failed)} of {len(rows)} products; see above", "red")
            raise typer.Exit(SOME_LEFT)


@app.command()
def status(
    store: Store,
    every: Annotated[bool, typer.Option("--all", help="List every version.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the state of each product of the last run, and of the others in the store."""
    with plain_errors():
        from cflow_ad.fleet.models import ModelStore
        from cflow_ad.fleet.runs import fleet_status, of_version

        opened = ModelStore(store)
        if every:
            promoted = opened.all_promoted()
            versions = opened.versions()
            rows = [of_version(v, "trained", promoted.get(v.product)) for v in versions]
        else:
            rows = fleet_status(opened)
        _show(rows, as_json)


@app.command()
def pull(
    product: ProductName, store: Store, output: ModelOutput, version: VersionName = None
) -> None:
    """Write the model of a product to a file: the promoted version, unless another is named."""
    with plain_errors():
        from cflow_ad.fleet.models import ModelStore
        from cflow_ad.store.model_file import check_writable

        check_writable(output)
        found = ModelStore(store).pull(product, output, version)
        typer.echo(f"{output}: {product}, version {found.version}")


@app.command()
def promote(product: ProductName, store: Store, version: VersionName = None) -> None:
    """Promote a version of a product to use: the newest, unless another is named."""
    with plain_errors():
        from cflow_ad.fleet.models import ModelStore

        typer.echo(f"{product}: version {ModelStore(store).promote(product, version)} is promoted")


@app.command()
def rollback(product: ProductName, store: Store) -> None:
    """Return to the version of a product that was promoted before."""
    with plain_errors():
        from cflow_ad.fleet.models import ModelStore

        typer.echo(f"{product}: version {ModelStore(store).rollback(product)} is promoted")


@app.command()
def compare(
    product: ProductName,
    data: Annotated[
        Path, path_argument("Data set in a known layout, or a manifest (CSV), with test images.")
    ],
    store: Store,
    before: Annotated[
        str | None,
        typer.Option(help="The first version. [default: the promoted one]", show_default=False),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(help="The second version. [default: the newest other]", show_default=False),
    ] = None,
    layout: Layout = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate two versions of a product on the same test images."""
    with plain_errors():
        from cflow_ad.cli.tables import print_table
        from cflow_ad.data.layouts import open_dataset
        from cflow_ad.fleet.compare import compare_versions
        from cflow_ad.fleet.models import ModelStore

        dataset = open_dataset(data, layout)
        with bars() as shown:
            compared = compare_versions(
                ModelStore(store),
                product,
                dataset,
                before=before,
                after=after,
                device=device,
                progress=shown.counter("evaluate"),
            )
        rows, changes = compared.rows(), compared.changes
        if as_json:
            values = {"versions": rows, "changes": [vars(change) for change in changes]}
            typer.echo(json.dumps(values, indent=2, default=str))
            return
        header = [name.replace("_", " ").capitalize() for name in rows[0]]
        print_table(header, [[_cell(value) for value in row.values()] for row in rows], product)
        for change in changes:
            verdicts = [
                "anomalous" if is_one else "good" for is_one in (change.before, change.after)
            ]
            typer.echo(f"{change.image} ({change.label}): {verdicts[0]}, now {verdicts[1]}")
        typer.echo(f"{len(changes)} of {len(compared.evaluations[0].images)} images change")


def _show(rows: Sequence[Row], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([row.to_dict() for row in rows], indent=2))
        return
    from cflow_ad.cli.tables import print_table

    if not rows:
        typer.echo("the store has no products yet")
        return
    header = ["Product", "State", "Version", "Promoted", "Images", "Threshold", "Rate", "Flags"]
    cells = [
        [
            row.product,
            row.state,
            (row.version or "")[:8],
            (row.promoted or "")[:8],
            _cell(row.n_images),
            _cell(row.threshold),
            _cell(row.achieved_rate),
            ", ".join(row.flags),
        ]
        for row in rows
    ]
    print_table(header, cells, "")
    for row in rows:
        for note in row.flags.values():
            typer.echo(f"{row.product}: {note}")
        if row.error:
            typer.secho(f"{row.product}: {row.error}", fg="red")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
