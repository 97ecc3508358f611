"""`bert-jax launch`: the same `bert-jax` command on many processes and machines.

What enters is a `bert-jax` command (the payload) and where it should run; what leaves is a list of steps, which are files to write and programs to run
(`steps.py`). They are printed, and done only with `--execute`. Programs are argument lists; where a remote shell, a batch script or YAML lies in between, a word
of the payload is quoted for each of them once, in one place: `worker.remote_command`, `slurm.batch_script`, `gke.container_words`, `gke.xpk_command`.
"""
