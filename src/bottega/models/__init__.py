"""Models: loading, the packed attention, heads, adapters, and the proof that packing is exact for each of them."""

import logging

# It warns of a kernel for CPUs that nothing here uses, and PEFT imports it wherever it is installed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
