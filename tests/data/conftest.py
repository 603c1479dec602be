"""A machine with no assets, for the tests of finding them."""

from fake_hub import here, no_hub  # noqa: F401
