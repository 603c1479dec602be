"""`from lpobench import sampling, learning` costs nothing until a name is used."""

import pytest
from processes import worked

from lpobench import learning, sampling


@pytest.mark.parametrize("facade", [sampling, learning])
def test_every_promised_name_is_there(facade):
    assert facade.__all__
    assert all(getattr(facade, name) is not None for name in facade.__all__)


@pytest.mark.parametrize("module", ["methods.lpo", "methods.none", "lpobench.sampling", "lpobench.learning"])
def test_entry_modules_do_not_load_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    worked(["-c", code])
