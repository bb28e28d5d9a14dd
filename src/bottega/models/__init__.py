"""Models: loading, the packed attention, heads, adapters, and the proof that packing is exact for each of them."""

import logging

# PEFT imports bitsandbytes wherever it is installed, which then warns of a CPU kernel that nothing here uses.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
