"""Stage 1: the teacher answers each level conditioned on its answers so far, and the pass is stored."""
