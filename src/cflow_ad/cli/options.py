"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

PRESET_HELP = "Settings to start from: fast, default, accurate or paper."
SETTING_HELP = "Another setting, as NAME=VALUE; `cflow-ad info settings` lists them. Repeatable."


def path_argument(help: str) -> Any:
    """Declare a required path; the code that reads it gives a better error than typer would."""
    return typer.Argument(help=help, show_default=False, readable=False)


ModelFile = Annotated[Path, path_argument("A model file, as trained or exported.")]
Trained = Annotated[Path, path_argument("A trained model file.")]
DataFolder = Annotated[
    Path, path_argument("Folder of good images, a data set in a known layout, or a manifest (CSV).")
]
ModelOutput = Annotated[
    Path, typer.Option("--output", "-o", help="The model file to write.", show_default=False)
]
NewFolder = Annotated[Path, path_argument("A new or empty folder.")]
Layout = Annotated[
    str | None,
    typer.Option(help="Layout of the data set on disk; see the manual. [default: recognised]"),
]
_FOLDER = "a name, a path in DATA, or a pattern; repeatable."
GoodFolders = Annotated[
    list[str] | None, typer.Option("--good", help=f"Folder of good images in DATA: {_FOLDER}")
]
BadFolders = Annotated[
    list[str] | None, typer.Option("--bad", help=f"Folder of defective images in DATA: {_FOLDER}")
]
MaskFolders = Annotated[
    list[str] | None, typer.Option("--masks", help=f"Folder of masks in DATA: {_FOLDER}")
]
Roi = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER|CSV",
        help="Regions of interest: a folder with a mask for each image, or a manifest (CSV) with a "
        "column roi. Only pixels where the mask is white are scored.",
    ),
]
WorkFolder = Annotated[
    Path | None,
    typer.Option(
        "--work-folder",
        metavar="FOLDER",
        envvar="CFLOW_AD_WORK",
        help="Folder for features and checkpoints while training. [default: beside the model]",
        show_default=False,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="Number format of scoring: fp32; tf32, faster on NVIDIA GPUs; or bf16, faster on "
        "processors with such instructions (AVX-512 BF16, AMX, GPUs). In another precision than "
        "that of the threshold, scores differ by up to a tenth. [default: as trained]"
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images encoded at once on a GPU.")]
Weights = Annotated[
    str | None, typer.Option(help="File with the backbone's weights (.safetensors, .pth).")
]
Device = Annotated[
    str | None,
    typer.Option(help="Where to run, as torch names it (cpu, cuda). [default: a GPU if any]"),
]
Bits = Annotated[
    int | None,
    typer.Option(
        min=8,
        max=16,
        help="Depth of images with 16 bits a value: with 12, white is 4095. [default: as trained]",
    ),
]
Page = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Page or frame of files that hold several images, from 1. [default: as trained]",
    ),
]
BayerPattern = Annotated[
    str | None,
    typer.Option(
        "--bayer",
        help="Bayer pattern of images without colour: rggb, bggr, grbg, gbrg; or none. "
        "[default: as trained]",
    ),
]
