import os
import sys

# Started as `robustft` or `python -m robustft.benchmarks...` (then argv begins so until the module is found), and not
# imported by somebody's own program: before the first library.
if sys.argv[:1] == ["-m"] or os.path.basename(sys.argv[0] if sys.argv else "") == "robustft":
    from .host.imports import leave_out_current_folder

    leave_out_current_folder()
