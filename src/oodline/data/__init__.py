"""Data sets: folders, Parquet files, torchvision and Hugging Face data sets of images; files of texts and of tensors.

A source knows its samples by position: a name to print, a label, and the image or text itself. A loader turns a source
into batches that carry those positions, so that a skipped sample never shifts the identity of the others.
"""

from oodline.data.folder import ImageFolder
from oodline.data.hub import HuggingFaceImages, TorchvisionImages
from oodline.data.listing import ImageList
from oodline.data.loader import ImageDataset, ImageLoader, image_loader
from oodline.data.masks import MaskedImages
from oodline.data.opening import AnyLoader, open_images, open_loader
from oodline.data.parquet import ParquetImages
from oodline.data.sources import ImageSource, Source, TextSource, names_of_logits
from oodline.data.subset import Subset, sample
from oodline.data.tensors import TensorFile, TensorLoader, TensorSample, TensorSource
from oodline.data.text_loader import TextLoader
from oodline.data.texts import TextFile, open_texts

__all__ = [
    "AnyLoader",
    "HuggingFaceImages",
    "ImageDataset",
    "ImageFolder",
    "ImageList",
    "ImageLoader",
    "ImageSource",
    "MaskedImages",
    "ParquetImages",
    "Source",
    "Subset",
    "TensorFile",
    "TensorLoader",
    "TensorSample",
    "TensorSource",
    "TextFile",
    "TextLoader",
    "TextSource",
    "TorchvisionImages",
    "image_loader",
    "names_of_logits",
    "open_images",
    "open_loader",
    "open_texts",
    "sample",
]
