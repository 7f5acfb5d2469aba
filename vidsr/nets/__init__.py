"""Networks, without files, devices or options. `models/registry.py` lists them."""
