"""``python -m cssl_jax`` is the command ``cssl-jax``."""

import sys

from cssl_jax.cli import main

sys.exit(main())
