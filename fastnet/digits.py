"""1797 handwritten digits of 8 x 8 pixels, shipped inside the package.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits" (1998), UCI Machine
Learning Repository, https://doi.org/10.24432/C50P49, test part, licensed CC BY 4.0. Written by 13
people; each pixel counts the ink in a 4 x 4 block of a 32 x 32 bitmap. The table here is the one
that is distributed with scikit-learn; it is unchanged: 64 pixels 0 .. 16 and the digit per line.
"""

import numpy as np

__all__ = ["load_digits"]


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the images and the digits they show.

    Returns
    -------
    x : ndarray of float32 (1797, 64)
        Rows of pixels, 8 after 8 from the top left, between 0 (paper) and 1 (ink).
    y : ndarray of int64 (1797,)
        The digits, 0 .. 9.
    """
    import gzip  # both are slow to import
    from importlib import resources

    packed = resources.files("fastnet").joinpath("digits.csv.gz").read_bytes()
    table = np.array(
        [line.split(b",") for line in gzip.decompress(packed).splitlines()], dtype=np.int64
    )
    return (table[:, :64] / 16).astype(np.float32), table[:, 64].copy()
