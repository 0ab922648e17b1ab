"""How data sets lie on disk: which images are good, which are not, and where their masks are.

The layouts, in the order in which they are looked for::

    manifest       FILE.csv                      a line an image: path, label, mask, split, roi
    elpv           elpv-mono, elpv-poly          solar cells, from the package elpv-dataset
    visa           image_anno.csv                and ../split_csv/1cls.csv
    mvtec-ad-2     test_public/
    mvtec-loco     ground_truth/structural_anomalies/STEM/000.png
    btad           train/ok/*  test/ok/*  test/ko/*  ground_truth/ko/*
    kolektor-sdd2  train/STEM.png  train/STEM_GT.png
    kolektor-sdd   kos01/Part0.jpg  kos01/Part0_label.bmp
    magnetic-tile  MT_Free/Imgs/*  MT_DEFECT/Imgs/*
    dagm           Train/*  Train/Label/*  Test/*  Test/Label/*
    shanghaitech   training/frames/CLIP/*  testing/frames/CLIP/*  testing/test_frame_mask/CLIP.npy
    mvtec          train/good/*  test/good/*  test/DEFECT/*  ground_truth/DEFECT/STEM_mask.png
    folder         FOLDER/*, or, if no image lies there, FOLDER/good/*: all are good

Each is a file here. Whatever would quietly change a result, such as a mask without an image, is an
error.
"""

from cflow_ad.data.layouts.dataset import GOOD, Dataset, Layout, Sample
from cflow_ad.data.layouts.opening import LAYOUTS, open_dataset

__all__ = ["GOOD", "LAYOUTS", "Dataset", "Layout", "Sample", "open_dataset"]
