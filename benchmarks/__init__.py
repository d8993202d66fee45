"""Side by side, in one run, on the same images and model: what the project's way costs against the obvious ones."""
