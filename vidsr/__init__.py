"""vidsr: video super-resolution with recurrent networks, and a particular care for faces."""

__version__ = "0.1.0"
