"""`cflow-ad serve`: the inspection station."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cflow_ad.cli.common import plain_errors, print_message
from cflow_ad.cli.fleet import Address
from cflow_ad.cli.options import Device
from cflow_ad.process import loading

DataOption = Annotated[
    Path, typer.Option("--data", help="Folder of the record, the pictures and the models.")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file with the station's configuration.")
]
DATA = Path("station")


def serve(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Model files, trained or exported; models of earlier starts are kept.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port to listen on. [default: 8000]", show_default=False
        ),
    ] = None,
    data: DataOption = DATA,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|URL",
            help="Serve the promoted models of a model store (`cflow-ad fleet`), and follow its "
            "promotions.",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(help="GiB of models in memory, at most. [default: 2]", show_default=False),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="Write an API key of the role operator to this file.")
    ] = None,
    config: ConfigOption = None,
    name: Annotated[
        str | None, typer.Option(help="The station's name, in records and messages.")
    ] = None,
    new_admin_password: Annotated[
        bool, typer.Option("--new-admin-password", help="Set and print a new password of admin.")
    ] = False,
    device: Device = None,
    engine: Annotated[
        str, typer.Option(help="local: this process; ray: a deployment of Ray Serve.")
    ] = "local",
    address: Address = None,
    max_queued_requests: Annotated[
        int, typer.Option(min=1, help="With Ray: requests that wait; to more the answer is 429.")
    ] = 64,
) -> None:
    """Serve the inspection station: an API and a web page.

    At the first start the password of the user admin is printed, once.
    """
    with plain_errors():
        from cflow_ad.fleet.engines import Engine
        from cflow_ad.station.config import read_config

        settings = read_config(
            config,
            models=tuple(models) if models else None,
            data=data,
            store=store,
            memory=memory,
            key_file=key_file,
            host=host,
            port=port,
            name=name,
            device=device,
        )
        if Engine(engine).name == "ray":
            from cflow_ad.station.on_ray import run_on_ray

            run_on_ray(settings, queue=max_queued_requests, address=address, say=print_message)
            return
        with loading():
            from cflow_ad.station.serving import open_server

            server = open_server(settings, print_message, new_admin_password=new_admin_password)
        server.run()
