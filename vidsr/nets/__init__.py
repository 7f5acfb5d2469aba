"""Networks only: no files, no devices, no options. The table of them is models/registry.py."""
