"""How a plan's images are made on more than one device."""
