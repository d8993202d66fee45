"""The default that runs anywhere: a rendered world of images with taxonomies, and a tiny VLM that knows it."""
