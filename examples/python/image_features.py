#!/usr/bin/env python3
"""image_features.py MODEL [IMAGE.npy...] - the features of images under every width of a ViT, and how near they are to
the widest one's.

An image is an array [channels, size, size] of float32, in the range that the model was trained with; without one, a
picture is drawn.
"""

import sys

import numpy as np
import numpy.typing as npt

import matformer


def draw(info: matformer.ModelInfo) -> npt.NDArray[np.float32]:
    """A bright disk before a gradient."""
    y, x = np.mgrid[-1:1:info.image_size * 1j, -1:1:info.image_size * 1j]
    picture = np.where(x * x + y * y < 0.4, 1.0, 0.5 * x)
    return np.repeat(picture[None], info.n_channel, axis=0).astype(np.float32)


def main(path: str, *files: str) -> None:
    with matformer.open(path) as model:
        session = matformer.Session(model)  # lends room; each image stands alone
        for name in files or ("a disk",):
            pixels = np.load(name) if files else draw(model.info)
            # The class row's state after the last norm; hidden="all" has every patch's.
            features = {size: session.forward(pixels=pixels, submodel=size, logits="none", hidden="last").hidden
                        for size in model.granularities or (None,)}
            widest = features[next(reversed(features))]
            for size, found in features.items():
                cosine = found @ widest / (np.linalg.norm(found) * np.linalg.norm(widest))
                print(f"{name}, {size}: {found.shape[0]} features, cosine to the widest {cosine:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
