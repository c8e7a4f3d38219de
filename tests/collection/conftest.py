"""What all tests of collections share."""

import pytest
from pictures import make_model


@pytest.fixture(scope="module")
def model():
    return make_model()
