"""`python -m duplex_asr` is the same program as `duplex-asr`."""

import sys

from duplex_asr.cli import main

sys.exit(main())
