"""A carpet's images, and one trained model of each kind."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.cflow.freia import decoder
from tests.importers import peers

SHAPE = (64, 96)  # not square, so that an exchange of rows and columns shows


@pytest.fixture(scope="session")
def small(images):
    """Images of the network's own size, which nothing has to resize."""
    return [np.ascontiguousarray(np.hstack([image, image])[:64, :96]) for image in images]


def trained(encoder, small, **kwargs):
    coders = [decoder(channels, **kwargs) for channels in encoder.channels]
    peers.train(coders, encoder(peers.normalised(small[:4])))
    return SimpleNamespace(
        encoder=encoder,
        coders=coders,
        maps=lambda image: peers.likelihood_maps(coders, encoder(peers.normalised([image]))),
    )


@pytest.fixture(scope="session")
def authors(small):
    """The authors' model, trained for a few steps; not to be changed."""
    return trained(peers.AuthorsResNet(), small)


@pytest.fixture(scope="session")
def anomalib(small):
    """Anomalib's model, trained for a few steps; not to be changed."""
    return trained(peers.AnomalibEncoder(), small, soft=False)


@pytest.fixture(scope="session")
def authors_content(authors):
    """What their checkpoint holds; not to be changed."""
    return {
        "encoder_state_dict": authors.encoder.state(),
        "decoder_state_dict": [coder.state_dict() for coder in authors.coders],
    }


@pytest.fixture(scope="session")
def authors_file(authors_content, tmp_path_factory):
    """The checkpoint itself."""
    path = tmp_path_factory.mktemp("authors") / "mine.pt"
    torch.save(authors_content, path)
    return path
