"""How data sets lie on disk: which images are good, which are defective, and where the masks are.

The layouts, in the order in which they are tried::

    manifest       FILE.csv                      a line an image: path, label, mask, split, roi
    lookout        FILE.manifest                 a line of JSON an image: source-ref, class-name
    coco           FILE.json                     images, annotations with outlines, categories
    elpv           elpv-mono, elpv-poly          solar cells, from the package elpv-dataset
    visa           image_anno.csv                and ../split_csv/1cls.csv
    mvtec-ad-2     test_public/
    mvtec-loco     ground_truth/structural_anomalies/STEM/000.png
    btad           train/ok/*  test/ok/*  test/ko/*  ground_truth/ko/*
    kolektor-sdd2  train/STEM.png  train/STEM_GT.png
    kolektor-sdd   kos01/Part0.jpg  kos01/Part0_label.bmp
    magnetic-tile  MT_Free/Imgs/*  MT_DEFECT/Imgs/*
    dagm           Train/*  Train/Label/*  Test/*  Test/Label/*
    mvtec          train/good/*  test/good/*  test/DEFECT/*  ground_truth/DEFECT/STEM_mask.png
    named          OK/*  NG/DEFECT/*  masks/*          in these words or others, see `named`
    folder         FOLDER/*  FOLDER/DAY/*              all are good

Each has a reader here, a `Layout`. Whatever would silently change a result, such as a mask without
an image, is an error.
"""

from cflow_ad.data.layouts.dataset import GOOD, Dataset, Sample, check_masks
from cflow_ad.data.layouts.opening import LAYOUTS, open_dataset
from cflow_ad.data.layouts.reading import Layout
from cflow_ad.data.layouts.words import FolderNames

__all__ = [
    "GOOD",
    "LAYOUTS",
    "Dataset",
    "FolderNames",
    "Layout",
    "Sample",
    "check_masks",
    "open_dataset",
]
