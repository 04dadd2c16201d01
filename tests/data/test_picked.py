import numpy as np

from reid.data.picked import PickedImages


def test_picked_images_are_rows_of_the_store_and_look_like_one():
    store = np.arange(5 * 2 * 1 * 3, dtype=np.uint8).reshape(5, 2, 1, 3)
    picked = PickedImages(store, np.array([4, 0, 2]))
    assert (picked.shape, picked.nbytes, len(picked)) == ((3, 2, 1, 3), 18, 3)
    assert np.array_equal(picked[np.array([2, 0, 0])], store[[2, 4, 4]])
    assert np.array_equal(picked[1:], store[[0, 2]])
    assert picked[:1].nbytes == 6
