"""Set before jax starts: the CPU, and compilation without optimisation, which is most of what the suite's time would go to."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["COLUMNS"] = "120"  # the same lines break in every terminal
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
