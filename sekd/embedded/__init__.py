"""The demo that runs on any machine: a rendered data set with taxonomies and a tiny VLM trained on it."""
