"""Running on SLURM: what a job asks for, how it is submitted and watched, and how it survives preemption.

Built on submitit and hydra-submitit-launcher; nothing here imports torch.
"""
